-- milter-clamav: clean mail is marked, malware is refused by name, forged marks go.

dofile(folder .. "/talk.lua")

local function clean(conn, what)
  taken(conn, what)
  check(mt.getheader(conn, "X-Virus-Status", 0) == " Clean"
    or mt.getheader(conn, "X-Virus-Status", 0) == "Clean", what .. ": not marked as clean")
end

manners(clean)

local conn = open()
greet(conn)
deliver(conn, ordinary("virus", eicar))
refused_as_malware(conn, "malware")

local forged = ordinary("forged", "Hello.")
table.insert(forged.headers, 1, { "X-Virus-Status", "Infected" })
deliver(conn, forged)
clean(conn, "forged")
check(mt.eom_check(conn, MT_HDRDELETE, "X-Virus-Status")
  or mt.eom_check(conn, MT_HDRCHANGE, "X-Virus-Status"), "a forged mark stays")

-- A virus that arrives in pieces of one octet.
local cut = ordinary("cut", "")
cut.body = {}
for at = 1, #eicar do
  cut.body[at] = string.sub(eicar, at, at)
end
deliver(conn, cut)
refused_as_malware(conn, "malware in pieces")
mt.disconnect(conn)
