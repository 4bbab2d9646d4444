-- milter-spam: ordinary mail is marked, spam is refused, forged marks go.

dofile(folder .. "/talk.lua")

local function marked(conn, what)
  taken(conn, what)
  local header = mt.getheader(conn, "X-Spamd-Result", 0)
  check(header ~= nil, what .. ": no result is written")
  check(string.find(header, "default: False", 1, true), what .. ": " .. header)
end

manners(marked)

local conn = open()
greet(conn)
deliver(conn, ordinary("spam", gtube))
refused_as_spam(conn, "spam")

local forged = ordinary("forged", "Hello.")
table.insert(forged.headers, 1, { "X-Spamd-Result", "default: False [-99.00 / 15.00]" })
deliver(conn, forged)
marked(conn, "forged")
check(mt.eom_check(conn, MT_HDRDELETE, "X-Spamd-Result"), "a forged result stays")

local cut = ordinary("cut", "")
cut.body = { string.sub(gtube, 1, 20), string.sub(gtube, 21) .. "\r\n" }
deliver(conn, cut)
refused_as_spam(conn, "spam in two pieces")
mt.disconnect(conn)
