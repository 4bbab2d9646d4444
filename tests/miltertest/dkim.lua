-- milter-dkim: mail of strangers gets results, our own a signature, forged results go.

dofile(folder .. "/talk.lua")

local function verified(conn, what)
  taken(conn, what)
  local results = mt.getheader(conn, "Authentication-Results", 0)
  check(results ~= nil, what .. ": no results are written")
  check(string.find(results, "dkim=none", 1, true), what .. ": " .. results)
end

manners(verified)

local conn = open()
greet(conn)
local forged = ordinary("forged", "Hello.")
table.insert(forged.headers, 1,
  { "Authentication-Results", "mx.example.org; dkim=pass header.d=example.net" })
deliver(conn, forged)
verified(conn, "forged")
check(mt.eom_check(conn, MT_HDRDELETE, "Authentication-Results"), "forged results stay")
check(not mt.eom_check(conn, MT_HDRINSERT, "DKIM-Signature"), "a stranger's mail is signed")

local own = ordinary("own", "Hello.")
own.sender = "joe@example.org"
own.login = "joe"
own.headers[1] = { "From", "<joe@example.org>" }
for number = 1, 2 do
  deliver(conn, own)
  taken(conn, "our own mail")
  local signature = mt.getheader(conn, "DKIM-Signature", 0)
  check(signature ~= nil, "our own mail is not signed")
  for _, tag in ipairs({ "d=example.org", "s=s1", "a=ed25519-sha256" }) do
    check(string.find(signature, tag, 1, true), "no " .. tag .. " in " .. signature)
  end
  check(mt.eom_check(conn, MT_HDRINSERT, "DKIM-Signature"), "the signature is not on top")
end
-- The login was that message's own.
deliver(conn, ordinary("stranger", "Hello."))
verified(conn, "after our own")
mt.disconnect(conn)
