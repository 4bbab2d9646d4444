-- milter-orchestrator with three filters behind it: each one's work is there, once.

dofile(folder .. "/talk.lua")

local function filtered(conn, what)
  taken(conn, what)
  for _, name in ipairs({ "Authentication-Results", "X-Virus-Status", "X-Spamd-Result" }) do
    check(mt.getheader(conn, name, 0) ~= nil, what .. ": no " .. name)
    check(mt.getheader(conn, name, 1) == nil, what .. ": a second " .. name)
  end
end

manners(filtered)

local conn = open()
greet(conn)
deliver(conn, ordinary("spam", gtube))
refused_as_spam(conn, "spam")
deliver(conn, ordinary("virus", eicar))
refused_as_malware(conn, "malware")

local forged = ordinary("forged", "Hello.")
table.insert(forged.headers, 1,
  { "Authentication-Results", "mx.example.org; dkim=pass header.d=example.net" })
table.insert(forged.headers, 1, { "X-Spamd-Result", "default: False [-99.00 / 15.00]" })
deliver(conn, forged)
filtered(conn, "forged")
for _, name in ipairs({ "Authentication-Results", "X-Spamd-Result" }) do
  check(mt.eom_check(conn, MT_HDRDELETE, name), "a forged " .. name .. " stays")
end

local own = ordinary("own", "Hello.")
own.sender = "joe@example.org"
own.login = "joe"
own.headers[1] = { "From", "<joe@example.org>" }
deliver(conn, own)
taken(conn, "our own mail")
check(mt.eom_check(conn, MT_HDRINSERT, "DKIM-Signature"), "our own mail is not signed")
mt.disconnect(conn)
