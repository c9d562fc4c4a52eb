"""The one script that runs in a Valkey or Redis: admits to all limits at once, settles, renews leases, takes up totals.

Only what must be atomic is here; when it is called, and what is made of its answers, is in `shared`. How arguments and
answers are laid out is in `forms`; `tests/stores/model.py` says the same in Python and is compared with it.

Each key, team or target is one hash, so that all that is known of it is there or lost at once. `R` is a replica, `B` a
budget's kind of period and zone. What `|R` ends in is the part of one replica; totals have no such part.

    e         when it was made (microseconds of the server): not there, nothing is known of it
    o k c     until when it is rebuilt, how many replicas are expected to tell what they know, how many did
    i         the last server of which somebody said that it may lack what another one had
    n         when leases are to be looked at next
    g|R l|R   the generation of a replica's connection, and until when its lease runs
    q: t:     `u` requests or tokens of the last minute, at the time `t`
    s         requests under way
    B:p B:e   when the period begins and ends (Unix milliseconds)
    B:x       spent in it, of what replicas say of themselves; B:f at least that much, while it is rebuilt
    B:r B:s   set aside, and how much of that no request holds: the slice a replica may spend while the store is away
    B:d B:h   the slice it was told to make do with, and when: less than B:s until it has heard of that
    B:w       until when slices are to be given back, because a request needs them

A replica's own spending is told as a total, so telling it twice changes nothing. What is under way is told as changes
by the connection that the replica has now; what an older one still has on its way is refused by its generation. A slice
that is to be smaller stays set aside until a call says that the replica has heard an answer as late as that: one that
never hears it, as the store hangs or is cut off, may be spending the larger one.

Replicas know the calendar, the server knows what time it is. Each call brings the period that its replica takes to be
the present one; one that the clock of the server is not in, or that is not the one it keeps, is answered with ANOTHER,
and nothing is done. So a replica whose clock is wrong neither begins a period for others nor spends of another one.
"""

from __future__ import annotations

import hashlib

SOURCE = r"""
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local op, me, gen = ARGV[1], ARGV[2], ARGV[3]
local lease, window, share, count = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local more = 8 + count * 7
local DAY, KEEP_S, SOON, CLAIM, SLACK = 86400000000, 3456000, 1000000, 5000000, 1e-6
local SHORT, SLIP_MS = 6000000, 60000
local now_ms = math.floor(now / 1000)

local function int(n) return string.format('%.0f', n) end
local function arg(i) return tonumber(ARGV[more + i]) end
local function num(v) return tonumber(v or '0') end
local function get(key, field) return num(redis.call('HGET', key, field)) end
local function add(key, field, n) if n ~= 0 then redis.call('HINCRBY', key, field, int(n)) end end

local limits = {}
for i = 0, count - 1 do
  local b = 8 + i * 7
  limits[i + 1] = {
    key = KEYS[tonumber(ARGV[b])], kind = ARGV[b + 1], limit = tonumber(ARGV[b + 2]), mode = ARGV[b + 3],
    id = ARGV[b + 4], begins = tonumber(ARGV[b + 5]), ends = tonumber(ARGV[b + 6]),
  }
end

local function fields(key)
  local flat, found = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

-- Totals begin anew with the period; what is set aside is given back by who set it aside. Where the clock was set back
-- by more than a little, replicas are waited for to tell what they had spent by then.
local function turn(one, before)
  local parts = one.id .. ':x|'
  for field in pairs(fields(one.key)) do
    if string.sub(field, 1, #parts) == parts then redis.call('HDEL', one.key, field) end
  end
  redis.call('HDEL', one.key, one.id .. ':f')
  redis.call('HSET', one.key, one.id .. ':p', int(one.begins), one.id .. ':e', int(one.ends), one.id .. ':x', '0')
  if now_ms < before and one.mode == 'hard' then
    redis.call('HSET', one.key, 'o', int(now + window), 'k', '0', 'c', '0')
  end
end

-- The period that the clock is in, or 0 where the caller's is not it and no other is known.
local function period(one, p, e)
  if p - SLIP_MS <= now_ms and now_ms < e then return p, e end
  if now_ms < one.begins or one.ends <= now_ms then return 0, 0 end
  if p == one.begins then
    redis.call('HSET', one.key, one.id .. ':e', int(one.ends))
  else
    turn(one, p)
  end
  return one.begins, one.ends
end

-- What a caller is told whose periods are not the present ones.
local function another()
  local told, differs = {-4, 0, 0, 0, now}, false
  for _, one in ipairs(limits) do
    if one.kind == 'b' then
      local v = redis.call('HMGET', one.key, one.id .. ':p', one.id .. ':e')
      local p, e = period(one, num(v[1]), num(v[2]))
      told[#told + 1], told[#told + 2] = p, e
      differs = differs or p ~= one.begins
    end
  end
  return differs and told
end

-- A replica that did not renew its lease: its places are free, and what it set aside counts as spent.
local function lose(key, known, who)
  local held = num(known['s|' .. who])
  if held ~= 0 then
    add(key, 's', -held)
    redis.call('HDEL', key, 's|' .. who)
  end
  local tail, had = ':r|' .. who, held ~= 0
  for field, value in pairs(known) do
    if #field > #tail and string.sub(field, -#tail) == tail then
      local id, amount = string.sub(field, 1, -#tail - 1), tonumber(value)
      if amount ~= 0 then
        had = true
        add(key, id .. ':r', -amount)
        add(key, id .. ':x', amount)
        add(key, id .. ':x|' .. who, amount)
      end
      redis.call('HDEL', key, field, id .. ':s|' .. who, id .. ':d|' .. who, id .. ':h|' .. who)
    end
  end
  return had
end

local function sweep(key)
  local due, soonest = get(key, 'n'), now + lease
  if now < due and due <= soonest then return end -- one that is later was set before the clock was set back
  local known = fields(key)
  for field, value in pairs(known) do
    if string.sub(field, 1, 2) == 'l|' then
      local who, ends = string.sub(field, 3), tonumber(value)
      if due > now + lease and ends > now + lease then
        ends = now + lease
        redis.call('HSET', key, field, int(ends))
      end
      if ends > now then
        soonest = math.min(soonest, ends)
      elseif lose(key, known, who) then
        redis.call('HSET', key, 'g|' .. who, '0')
      elseif ends < now - DAY then
        redis.call('HDEL', key, 'g|' .. who, 'l|' .. who)
      end
    end
  end
  redis.call('HSET', key, 'n', int(soonest))
end

-- What nobody who is here says of itself, and somebody saw, was spent by who is gone.
local function rebuilding(key)
  local v = redis.call('HMGET', key, 'o', 'k', 'c')
  if not v[1] then return false end
  if now < tonumber(v[1]) and not (num(v[2]) > 0 and num(v[3]) >= num(v[2])) then return true end
  for field, value in pairs(fields(key)) do
    if string.sub(field, -2) == ':f' then
      local id = string.sub(field, 1, -3)
      local gone = tonumber(value) - get(key, id .. ':x')
      if gone > 0 then
        add(key, id .. ':x', gone)
        add(key, id .. ':x|', gone)
      end
      redis.call('HDEL', key, field)
    end
  end
  redis.call('HDEL', key, 'o', 'k', 'c')
  return false
end

local function budget(one)
  local id = one.id
  local v = redis.call('HMGET', one.key, id .. ':x', id .. ':r', id .. ':x|' .. me, id .. ':r|' .. me,
    id .. ':s|' .. me, id .. ':w', id .. ':f', id .. ':d|' .. me, id .. ':h|' .. me)
  return {
    spent = math.max(num(v[1]), num(v[7])), aside = num(v[2]), mine = num(v[3]), held = num(v[4]), slice = num(v[5]),
    claimed = num(v[6]) > now, less = v[8] and tonumber(v[8]), since = num(v[9]),
  }
end

local function set_slice(one, b, want)
  local by = want - b.slice
  add(one.key, one.id .. ':r', by)
  add(one.key, one.id .. ':r|' .. me, by)
  if by ~= 0 then redis.call('HSET', one.key, one.id .. ':s|' .. me, int(want)) end
  if b.less then redis.call('HDEL', one.key, one.id .. ':d|' .. me, one.id .. ':h|' .. me) end
  b.aside, b.held, b.slice, b.less = b.aside + by, b.held + by, want, nil
end

-- Set aside ahead what this replica may spend while the store is away, or give it back where a request needs it.
local function slice(one, b, heard)
  if one.mode ~= 'hard' then return end
  if b.less and heard >= b.since then set_slice(one, b, b.less) end
  local left = one.limit - b.spent - b.aside
  local want = b.claimed and 0 or math.floor(math.max(0, left + b.slice) * share)
  if left < 0 or want == 0 or want < b.slice * 0.75 or want > b.slice * 1.25 then
    if want >= b.slice or share == 0 then
      set_slice(one, b, want)
    elseif not b.less or want < b.less then
      redis.call('HSET', one.key, one.id .. ':d|' .. me, int(want), one.id .. ':h|' .. me, int(now))
      b.less = want
    end
  end
end

local function set_used(one, amount)
  redis.call('HSET', one.key, one.kind .. ':u', string.format('%.17g', amount), one.kind .. ':t', int(now))
end

local function used(one)
  local v = redis.call('HMGET', one.key, one.kind .. ':u', one.kind .. ':t')
  local had, past = num(v[1]), now - num(v[2])
  if past < 0 then set_used(one, had) end -- the clock was set back: it fills from now on
  return math.max(0, had - math.max(0, past) * one.limit / 60000000)
end

-- Of what was not used, time has brought back some of itself.
local function late(one, by, since)
  local past = now - since
  if by >= 0 or since == 0 or past <= SHORT then return by end
  return -math.max(0, math.min(-by, one.limit - past * one.limit / 60000000))
end

local function take(one, amount)
  add(one.key, 's', amount)
  add(one.key, 's|' .. me, amount)
end

-- What a replica is told of every limit, so that what it says to clients is what is enforced. What is known of some of
-- them by now is not asked for again.
local function tell(status, index, wait, over, known)
  local told = {status, index, wait, over, now}
  for i, one in ipairs(limits) do
    if one.kind == 's' then
      told[#told + 1] = known[i] or get(one.key, 's')
    elseif one.kind == 'b' then
      local b = known[i] or budget(one)
      told[#told + 1] = b.spent - b.mine
      told[#told + 1] = b.aside - b.held
      told[#told + 1] = b.less or b.slice
    else
      told[#told + 1] = math.floor((known[i] or used(one)) * 1000000)
    end
  end
  return told
end

-- The registry of replicas: who is here, and was this one known?
if op == 'count' then
  local known = redis.call('ZADD', KEYS[1], int(now + lease), me) == 0
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(now))
  return {known and 1 or 0, redis.call('ZCARD', KEYS[1]), now}
end
if op == 'leave' then
  redis.call('ZREM', KEYS[1], me)
  return {1}
end

local function entered(key)
  local v = redis.call('HMGET', key, 'e', 'g|' .. me)
  return v[1] and v[2] == gen
end

if op == 'sync' then
  local key = KEYS[1]
  local v = redis.call('HMGET', key, 'e', 'g|' .. me)
  local newer = v[2] and tonumber(v[2]) > tonumber(gen)
  if newer then return {-2, tonumber(v[2]), 0, 0, now} end
  local other = another()
  if other then return other end
  local server, hard = arg(1), false
  for _, one in ipairs(limits) do hard = hard or one.mode == 'hard' end
  local lacks = v[1] and server > 1 and get(key, 'i') ~= server
  if not v[1] then redis.call('HSET', key, 'e', int(now)) end
  if server > 1 then redis.call('HSET', key, 'i', int(server)) end
  if hard and (lacks or not v[1]) then redis.call('HSET', key, 'o', int(now + window), 'k', '0', 'c', '0') end
  if redis.call('HEXISTS', key, 'o') == 1 then
    if not v[2] or (server > 1 and v[2] ~= gen) then add(key, 'c', 1) end
    if arg(0) > get(key, 'k') then redis.call('HSET', key, 'k', int(arg(0))) end
  end
  redis.call('HSET', key, 'g|' .. me, gen, 'l|' .. me, int(now + lease))
  redis.call('EXPIRE', key, KEEP_S)
  local fresh = v[2] ~= gen or arg(1) == 1
  for i, one in ipairs(limits) do
    local a, b, c, d = arg(4 * i - 2), arg(4 * i - 1), arg(4 * i), arg(4 * i + 1)
    if one.kind == 's' and fresh then
      take(one, a - get(key, 's|' .. me))
    elseif one.kind == 'b' then
      if fresh then
        local by = b + d - get(key, one.id .. ':r|' .. me)
        add(key, one.id .. ':r', by)
        add(key, one.id .. ':r|' .. me, by)
        redis.call('HDEL', key, one.id .. ':s|' .. me, one.id .. ':d|' .. me, one.id .. ':h|' .. me)
        if d ~= 0 then redis.call('HSET', key, one.id .. ':s|' .. me, int(d)) end
      end
      local by = a - get(key, one.id .. ':x|' .. me)
      add(key, one.id .. ':x', by)
      add(key, one.id .. ':x|' .. me, by)
      if redis.call('HEXISTS', key, 'o') == 1 and a + c > get(key, one.id .. ':f') then
        redis.call('HSET', key, one.id .. ':f', int(a + c))
      end
    end
  end
  sweep(key)
  return tell(rebuilding(key) and -3 or 1, 0, 0, 0, {})
end

local building, strange = false, {}
for _, key in ipairs(KEYS) do
  if entered(key) then sweep(key) end
  if not entered(key) then
    if op ~= 'settle' then return {-1, 0, 0, 0, now} end
    strange[key] = true
  end
end

if op == 'settle' then
  local places, requests, tokens, need, since = arg(0), arg(1), arg(2), arg(3), arg(4)
  local at = 5
  for _, one in ipairs(limits) do
    if one.kind == 'b' then at = at + 1 end
    if strange[one.key] then
      -- it will be told as a whole by the next sync
    elseif one.kind == 's' then
      take(one, -places)
    elseif one.kind == 'b' then
      add(one.key, one.id .. ':r', -need)
      add(one.key, one.id .. ':r|' .. me, -need)
      local v = redis.call('HMGET', one.key, one.id .. ':p', one.id .. ':e', one.id .. ':x|' .. me)
      local before = num(v[1])
      if period(one, before, num(v[2])) == one.begins then
        local by = arg(at - 1) - (before == one.begins and num(v[3]) or 0)
        add(one.key, one.id .. ':x', by)
        add(one.key, one.id .. ':x|' .. me, by)
      end
    elseif one.kind == 'q' then
      if requests ~= 0 then set_used(one, math.max(0, used(one) + requests)) end
    elseif tokens ~= 0 then
      set_used(one, math.max(0, used(one) + late(one, tokens, since)))
    end
  end
  return {1, 0, 0, 0, now}
end

local other = another()
if other then return other end
for _, key in ipairs(KEYS) do building = rebuilding(key) or building end

if op == 'beat' then
  redis.call('HSET', KEYS[1], 'l|' .. me, int(now + lease))
  redis.call('EXPIRE', KEYS[1], KEEP_S)
  local known = {}
  for i, one in ipairs(limits) do
    if one.kind == 'b' then
      known[i] = budget(one)
      slice(one, known[i], arg(0))
    end
  end
  return tell(building and -3 or 1, 0, 0, 0, known)
end

-- admit: all limits are asked before any is drawn on.
local tokens, need, heard = arg(0), arg(1), arg(2)
local over, spared, known = 0, {}, {}
for i, one in ipairs(limits) do
  local wait = -1
  if one.kind == 's' then
    known[i] = get(one.key, 's')
    if known[i] >= one.limit then wait = SOON end
  elseif one.kind == 'b' then
    if need > 0 then
      if one.mode == 'hard' and building then return tell(-3, i, 0, 0, known) end
      local b = budget(one)
      known[i] = b
      if one.mode ~= 'soft' and need > one.limit - b.spent - b.aside + b.slice then
        wait = 0
        if one.mode == 'hard' and b.spent + need <= one.limit then
          redis.call('HSET', one.key, one.id .. ':w', int(now + CLAIM))
        end
      end
    end
  else
    known[i] = used(one)
    local lacks = known[i] + math.min(one.kind == 'q' and 1 or tokens, one.limit) - one.limit
    if lacks > SLACK then wait = math.ceil(lacks * 60000000 / one.limit) end
  end
  if wait >= 0 then
    if one.mode ~= 'shadow' then return tell(0, i, wait, 0, known) end
    over = over + 2 ^ (i - 1)
    spared[i] = true
  end
end
for _, key in ipairs(KEYS) do redis.call('HSET', key, 'l|' .. me, int(now + lease)) end
for i, one in ipairs(limits) do
  if one.kind == 'b' then
    if need > 0 then
      local b = known[i]
      add(one.key, one.id .. ':r', need)
      add(one.key, one.id .. ':r|' .. me, need)
      b.aside, b.held = b.aside + need, b.held + need
      slice(one, b, heard)
    end
  elseif not spared[i] then
    if one.kind == 's' then
      known[i] = known[i] + 1
      take(one, 1)
    else
      known[i] = known[i] + (one.kind == 'q' and 1 or tokens)
      set_used(one, known[i])
    end
  end
end
return tell(1, 0, 0, over, known)
""".strip().encode()

SHA = hashlib.sha1(SOURCE).hexdigest().encode()  # noqa: S324 - the name that the protocol gives it

#: What the first number of an answer says.
ADMITTED, REFUSED = 1, 0
#: The store does not know this replica's state, or knows a newer connection of it, or is collecting totals.
UNKNOWN, OUTDATED, REBUILDING = -1, -2, -3
#: The caller takes another period to be the present one. Then follow when the store's begins and ends, of each budget;
#: 0 and 0 where it has none, and the caller is to look at its calendar.
ANOTHER = -4
