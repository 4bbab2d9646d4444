-- A script that must fail: a check that does not hold is seen by who runs it.

dofile(folder .. "/talk.lua")

local conn = open()
greet(conn)
deliver(conn, ordinary("one", "Hello."))
refused_as_spam(conn, "an ordinary message")
