-- The autotuner: what it searches, keeps and finds again. Timing is replaced by a rule, so that every result is known.
local artifact = require "esper.artifact"
local compile = require "esper.compile"
local duel = require "esper.bench.duel"
local esper = require "esper"
local files = require "support.files"
local native = require "esper.native"
local process = require "support.process"
local tune = require "esper.tune"
local tuning = require "esper.tuning"
local urza = require "esper.urza"
local C = native.C

local SOURCE = [[
return blueprint "t/tuned" {
  hyper = { dim = 96 }, input = { x = { "batch", "dim" } },
  build = function(g, x, h) return { y = g.relu(g.linear(x, h.dim, { name = "fc" })) } end,
}
]]

-- Nanoseconds that the rule gives a side: `quick` = { [choice] = value that saves a fifth }.
local function cost(side, quick)
  local ns = 1e6
  for _, list in pairs(side.compiled.choices) do
    for name, c in pairs(list) do
      if quick[name] == c.value then ns = ns * 0.8 end
    end
  end
  return ns
end

-- Runs body with duels decided by cost().
local function ruled(quick, body)
  local plain = duel.run
  function duel.run(sides)
    local out, one = {}, native.new "double[1]"
    for _, side in ipairs(sides) do
      assert(side.run(1, one))
      local ns = cost(side, quick)
      out[side.name] = { median = ns, low = ns, high = ns, count = 1, rounds = { ns, ns, ns } }
    end
    return out
  end
  local ok, result = pcall(body)
  duel.run = plain
  return assert(ok and result, result)
end

-- The choice with most candidates, and one of them that is not the default.
local function some_choice(path, set)
  local r, best = assert(compile.compile(path, { build = require("esper.sandbox").build, set = set })), nil
  for signature, list in pairs(r.choices) do
    for name, c in pairs(list) do
      local more = not best or #c.candidates > #best.candidates
      if more or (#c.candidates == #best.candidates and signature .. name < best.signature .. best.name) then
        best = { signature = signature, name = name, candidates = c.candidates, default = c.value }
      end
    end
  end
  assert(#best.candidates > 1)
  best.other = best.candidates[#best.candidates]
  return best, r
end

-- A Lua program in a process of its own, with the store in `directory`.
local function elsewhere(directory, program)
  local file = files.write("program.lua", program)
  return ("ESPER_STORE='%s' LUA_PATH='lua/?.lua;lua/?/init.lua;;' LUA_CPATH='%s/?.so;;' luajit '%s'"):format(directory, process.build, file)
end

-- Key and status of a compile in another process.
local function compiled(path, directory)
  local text = process.must(elsewhere(directory, ('local k = assert(require("esper").compile %q) print(k.key, k.status)'):format(path)))
  return text:match "(%x+)\t(%u+)"
end

describe("the autotuner #process", function()
  local directory, path
  before_each(function()
    directory = process.directory()
    path = files.write("tuned.lua", SOURCE)
    esper.set_store(directory)
  end)
  after_each(function()
    esper.set_store ""
    collectgarbage()
    process.remove(directory)
  end)

  it("tries every candidate, keeps what is faster, and its numbers add up", function()
    local choice = some_choice(path)
    local told = {}
    local report = ruled({ [choice.name] = choice.other }, function()
      return tune.run(path, { budget = 60, progress = function(done, whole) told[#told + 1] = { done, whole } end })
    end)
    assert.is_true(report.complete)
    assert.same({ [choice.signature] = { [choice.name] = choice.other } }, report.tuning)
    local tries, left = 0, 1
    for _, row in ipairs(report.rows) do
      local mine = row.choice == choice.name
      assert.equal(mine and choice.other or row.default, row.best)
      assert.is_true(math.abs((mine and 0.2 or 0) - row.gain) < 1e-9)
      left = left * (1 - row.gain)
    end
    assert.is_true(math.abs(report.after / report.before - left) < 1e-9)
    for _, list in pairs(assert(compile.compile(path, { build = require("esper.sandbox").build })).choices) do
      for _, c in pairs(list) do tries = tries + #c.candidates - 1 end
    end
    assert.is_true(report.trials >= tries and report.trials <= 2 * tries) -- a sweep that changed something, and one more
    assert.equal(report.trials, #told)
    for i, t in ipairs(told) do assert.is_true(t[2] == 60 and t[1] > 0 and (i == 1 or t[1] >= told[i - 1][1])) end
  end)

  it("stops with its budget", function()
    local report = ruled({}, function() return tune.run(path, { budget = 1e-6 }) end)
    assert.is_false(report.complete)
    assert.equal(0, report.trials)
    assert.same({}, report.tuning)
    assert.is_nil(report.after)
  end)

  it("takes nothing that computes something else", function()
    local choice, sides = some_choice(path), require "esper.bench.sides"
    local plain = sides.difference
    sides.difference = function() return 0.5 end
    finally(function() sides.difference = plain end)
    assert.same({}, ruled({ [choice.name] = choice.other }, function() return tune.run(path, { budget = 60 }) end).tuning)
  end)

  it("is found again by other processes, under a key of its own", function()
    local choice = some_choice(path)
    local before = compiled(path, directory)
    local report = ruled({ [choice.name] = choice.other }, function() return esper.tune(path, { budget = 60 }) end)
    assert.is_true(report.kept)
    local key, status = compiled(path, directory)
    assert.equal("CACHED", status)
    assert.is_true(key ~= before)
    local store = esper.store()
    assert.truthy(store:get(key).target:find("tuned " .. tuning.digest(tuning.encode(report.tuning)), 1, true))
    local function verb(at, words) return process.must(("ESPER_STORE='%s' %s/esper store %s"):format(at, process.build, words)) end
    assert.truthy(verb(directory, ("why '%s'"):format(path)):find("found: " .. key, 1, true))
    -- the choices are a record: listed, shown, verified, exported, taken over by another store, as old as the kernels
    local listed = verb(directory, "ls")
    assert.equal(4, select(2, listed:gsub("\n", ""))) -- head, two kernels, the choices
    local record = listed:match "(%x+)[^\n]* tuning/"
    assert.truthy(verb(directory, "show " .. record):find(tuning.encode(report.tuning), 1, true))
    assert.truthy(verb(directory, "verify"):find "3 records, .*0 bad")
    local other = process.directory()
    finally(function() process.remove(other) end)
    verb(directory, ("export '%s/all'"):format(other))
    verb(other .. "/store", ("import '%s/all'"):format(other))
    local again, how = compiled(path, other .. "/store")
    assert.same({ key, "CACHED" }, { again, how })
    verb(directory, "gc --older 30")
    assert.same({ key, "CACHED" }, { compiled(path, directory) })
    verb(directory, "rm " .. record)
    assert.same({ before, "CACHED" }, { compiled(path, directory) })
  end)

  it("goes on from what it found, and forgets it when the defaults are faster now", function()
    local choice = some_choice(path)
    ruled({ [choice.name] = choice.other }, function() return esper.tune(path, { budget = 60 }) end)
    local tuned = compiled(path, directory)
    local again = ruled({ [choice.name] = choice.other }, function() return esper.tune(path, { budget = 1e-6 }) end)
    assert.is_true(again.kept and again.trials == 0)
    assert.equal(tuned, (compiled(path, directory)))
    local none = ruled({ [choice.name] = choice.default }, function() return esper.tune(path, { budget = 60 }) end)
    assert.is_false(none.kept)
    local key, status = compiled(path, directory)
    assert.equal("CACHED", status)
    assert.is_true(key ~= tuned)
    assert.is_nil(esper.store():get(key).target:find "tuned")
  end)

  it("tunes a case of the suite under its blueprint's name", function()
    local choice = some_choice("transformer/mlp_small", { dim = 64 })
    local report = ruled({ [choice.name] = choice.other }, function() return esper.tune("mlp 64x128 b1", { budget = 60 }) end)
    assert.is_true(report.kept and report.name == "mlp 64x128 b1")
    local kernel = assert(esper.compile("transformer/mlp_small", { set = { dim = 64 } }))
    assert.equal("CACHED", kernel.status)
    assert.truthy(esper.store():get(kernel.key).target:find "tuned")
  end)

  it("falls back to the defaults for a record that is wrong, foreign, or names what there is no more", function()
    local choice, plain = some_choice(path)
    local store = assert(urza.open(directory))
    local sandbox = require "esper.sandbox"
    local function unit_with(text)
      local options = { build = sandbox.build, read = sandbox.read, identity = sandbox.identity, store = store.ptr }
      if text then assert(artifact.save_tuning(store.ptr, assert(compile.compile(path, options)), text)) end
      local r = assert(compile.compile(path, setmetatable({ anew = true }, { __index = options })))
      return r.unit .. native.text(C.es_plan_print, r.plan), r.key
    end
    local unit, key = unit_with()
    assert.equal(plain.unit .. native.text(C.es_plan_print, plain.plan), unit)
    for _, text in ipairs { "nonsense", "no signature\n", "\n", "abcdef = \n", choice.signature .. " " .. choice.name .. "=77777\n",
      choice.signature .. " gone=3\n", "0123456789abcdef " .. choice.name .. "=" .. tostring(choice.other) .. "\n",
      choice.signature .. "\0\255 x=1\n" } do
      local mine, other = unit_with(text)
      assert.equal(unit, mine, text)
      assert.is_true(other ~= key) -- what is tuned is never mixed with what is not, even where it changes nothing
    end
    assert.is_true(unit ~= unit_with(tuning.encode { [choice.signature] = { [choice.name] = choice.other } }))
    -- that of another processor is not ours
    local model = tuning.model
    tuning.model = function() return "another processor" end
    finally(function() tuning.model = model end)
    local theirs, their_key = unit_with()
    assert.equal(unit, theirs)
    assert.equal(key, their_key)
  end)

  it("says when the store cannot take it", function()
    local choice = some_choice(path)
    compiled(path, directory)
    process.must(("chmod 500 '%s'"):format(directory))
    finally(function() process.must(("chmod 700 '%s'"):format(directory)) end)
    if process.must "id -u" == "0\n" then return end -- whom nothing is forbidden
    local report, why, status
    ruled({ [choice.name] = choice.other }, function()
      report, why, status = esper.tune(path, { budget = 60 })
      return true
    end)
    assert.is_nil(report)
    assert.truthy(why:find "cannot be stored: .*cannot be written")
    assert.equal("EIO", status)
  end)

  it("keeps one of two records that processes write at once, whole", function()
    local r = assert(compile.compile(path, { build = require("esper.sandbox").build, store = assert(esper.store()).ptr }))
    local one = elsewhere(directory, [[local store = assert(require("esper").store())
      local r = assert(require("esper.compile").compile(arg[1], { build = require("esper.sandbox").build, store = store.ptr }))
      for i = 1, 30 do assert(require("esper.artifact").save_tuning(store.ptr, r, "abcdef0123456789 rows=" .. arg[2] .. "\n")) end]])
    process.must(("%s '%s' 1 & %s '%s' 2 & wait %%1 && wait %%2"):format(one, path, one, path))
    local text = artifact.tuning(esper.store().ptr, r)
    assert.truthy(text == "abcdef0123456789 rows=1\n" or text == "abcdef0123456789 rows=2\n")
  end)
end)
