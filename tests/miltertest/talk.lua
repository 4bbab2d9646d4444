-- What the scripts share: a conversation in which every answer is looked at.
--
-- Globals from the command line: `socket`, where the daemon listens, and `folder`, where the
-- scripts are. A check that fails says so on standard output and ends miltertest with an error.

-- Ends the script unless `truth` holds.
function check(truth, what)
  if not truth then
    mt.echo("failed: " .. what)
    error(what)
  end
end

-- The names of replies, for messages.
local names = {
  [SMFIR_CONTINUE] = "continue",
  [SMFIR_ACCEPT] = "accept",
  [SMFIR_REJECT] = "reject",
  [SMFIR_TEMPFAIL] = "tempfail",
  [SMFIR_DISCARD] = "discard",
  [SMFIR_REPLYCODE] = "reply code",
  [SMFIR_SKIP] = "skip",
}

-- The last reply must be `expected`.
function replied(conn, expected, what)
  local got = mt.getreply(conn)
  local said = names[got] or tostring(got)
  check(got == expected, what .. ": " .. said .. ", not " .. names[expected])
end

-- Runs a step that the filter may have forbidden, or may leave without an answer.
local function step(conn, what, forbidden, unanswered, send, allowed)
  if mt.test_option(conn, forbidden) then
    return
  end
  local failure = send()
  check(failure == nil, what .. ": " .. tostring(failure))
  if mt.test_option(conn, unanswered) then
    return
  end
  for _, reply in ipairs(allowed or {}) do
    if mt.getreply(conn) == reply then
      return
    end
  end
  replied(conn, SMFIR_CONTINUE, what)
end

-- Connects and negotiates. `steps` is what the MTA offers to leave out; without it, everything.
-- (miltertest takes the two masks in the other order than it documents.)
function open(steps)
  local conn = mt.connect(socket, 100, 0.1)
  check(conn ~= nil, "no connection to " .. socket)
  local failure = mt.negotiate(conn, nil, steps, nil)
  check(failure == nil, "negotiation: " .. tostring(failure))
  return conn
end

-- Tells of the client: a stranger unless an address is given.
function greet(conn, address)
  step(conn, "connect", SMFIP_NOCONNECT, SMFIP_NR_CONN, function()
    mt.macro(conn, SMFIC_CONNECT, "j", "mx.example.org", "{daemon_name}", "test")
    return mt.conninfo(conn, "client.example.net", address or "192.0.2.1")
  end)
  step(conn, "helo", SMFIP_NOHELO, SMFIP_NR_HELO, function()
    return mt.helo(conn, "client.example.net")
  end)
end

-- Names the sender and the recipients. `message.login` is who has logged in.
function envelope(conn, message)
  step(conn, "mail", SMFIP_NOMAIL, SMFIP_NR_MAIL, function()
    local sender = message.sender or "stranger@example.net"
    if message.login then
      mt.macro(conn, SMFIC_MAIL, "i", message.id, "{mail_addr}", sender,
        "{auth_authen}", message.login, "{auth_type}", "PLAIN")
    else
      mt.macro(conn, SMFIC_MAIL, "i", message.id, "{mail_addr}", sender)
    end
    return mt.mailfrom(conn, "<" .. sender .. ">", "BODY=8BITMIME")
  end)
  for _, recipient in ipairs(message.recipients or { "user@example.org" }) do
    step(conn, "rcpt", SMFIP_NORCPT, SMFIP_NR_RCPT, function()
      mt.macro(conn, SMFIC_RCPT, "i", message.id, "{rcpt_addr}", recipient)
      return mt.rcptto(conn, "<" .. recipient .. ">")
    end)
  end
  step(conn, "data", SMFIP_NODATA, SMFIP_NR_DATA, function()
    return mt.data(conn)
  end)
end

-- Sends the header fields, pairs of a name and a value.
function headers(conn, fields)
  local exact = mt.test_option(conn, SMFIP_HDR_LEADSPC)
  for _, field in ipairs(fields) do
    step(conn, field[1], SMFIP_NOHDRS, SMFIP_NR_HDR, function()
      return mt.header(conn, field[1], (exact and " " or "") .. field[2])
    end)
  end
  step(conn, "end of headers", SMFIP_NOEOH, SMFIP_NR_EOH, function()
    return mt.eoh(conn)
  end)
end

-- Sends the pieces of the body, until the filter has seen enough.
function body(conn, pieces)
  for _, piece in ipairs(pieces) do
    step(conn, "body", SMFIP_NOBODY, SMFIP_NR_BODY, function()
      return mt.bodystring(conn, piece)
    end, { SMFIR_SKIP })
    if mt.getreply(conn) == SMFIR_SKIP then
      return
    end
  end
end

-- Sends a message to its end. What the filter did with it is the caller's to look at.
function deliver(conn, message)
  envelope(conn, message)
  headers(conn, message.headers)
  body(conn, message.body)
  local failure = mt.eom(conn)
  check(failure == nil, "end of message: " .. tostring(failure))
end

-- A message of these words from a stranger.
function ordinary(id, text)
  return {
    id = id,
    headers = {
      { "From", "<stranger@example.net>" },
      { "To", "<user@example.org>" },
      { "Date", "Mon, 1 Jan 2024 00:00:00 +0000" },
      { "Message-ID", "<" .. id .. "@example.net>" },
      { "Subject", "greetings" },
    },
    body = { text .. "\r\n" },
  }
end

-- The message is taken, with or without edits.
function taken(conn, what)
  local got = mt.getreply(conn)
  local ok = got == SMFIR_CONTINUE or got == SMFIR_ACCEPT
  check(ok, what .. ": " .. (names[got] or tostring(got)) .. ", not taken")
end

-- The message is refused with exactly this answer, and nothing about it is changed.
function refused(conn, code, enhanced, text, what)
  replied(conn, SMFIR_REPLYCODE, what)
  check(mt.eom_check(conn, MT_SMTPREPLY, code, enhanced, text), what .. ": not " .. code)
  check(not mt.eom_check(conn, MT_HDRADD), what .. ": a header is added")
  check(not mt.eom_check(conn, MT_HDRINSERT), what .. ": a header is inserted")
end

-- What holds for every daemon: `good(conn)` looks at what became of an ordinary message.
function manners(good)
  -- With all that the library offers, and with an MTA that wants an answer to everything.
  for _, steps in ipairs({ false, 0 }) do
    local conn = open(steps or nil)
    if steps == 0 then
      check(not mt.test_option(conn, SMFIP_NR_HDR), "an answer is refused that was not offered")
      check(not mt.test_option(conn, SMFIP_NORCPT), "a step is refused that was not offered")
    end
    greet(conn)
    for number = 1, 3 do
      deliver(conn, ordinary("many" .. number, "Hello."))
      good(conn, "message " .. number)
    end

    -- A message that the client gives up at each stage leaves nothing behind.
    envelope(conn, ordinary("early", ""))
    mt.abort(conn)
    envelope(conn, ordinary("header", ""))
    headers(conn, { { "Subject", "given up" } })
    mt.abort(conn)
    envelope(conn, ordinary("body", ""))
    headers(conn, { { "Subject", "given up" } })
    body(conn, { "half a message" })
    mt.abort(conn)
    deliver(conn, ordinary("after", "Hello."))
    good(conn, "after an abort")

    -- A command that nobody knows, between messages.
    if not mt.test_option(conn, SMFIP_NOUNKNOWN) then
      local failure = mt.unknown(conn, "XYZZY one two")
      check(failure == nil, "unknown: " .. tostring(failure))
      if not mt.test_option(conn, SMFIP_NR_UNKN) then
        replied(conn, SMFIR_CONTINUE, "unknown")
      end
    end
    deliver(conn, ordinary("last", "Hello."))
    good(conn, "after an unknown command")
    mt.disconnect(conn, steps ~= 0)
  end
end

-- What milter-spam and milter-clamav say to what they refuse.
function refused_as_spam(conn, what)
  refused(conn, "554", "5.7.1", "Spam message rejected", what)
end

function refused_as_malware(conn, what)
  refused(conn, "550", "5.7.1", "malware found: Eicar-Test-Signature.UNOFFICIAL", what)
end

-- The text that every spam filter refuses, in halves.
gtube = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" .. "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
-- The file that every virus scanner finds, in halves.
eicar = [[X5O!P%@AP[4\PZX54(P^)7CC)7}$]] .. "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
