-- The autotuner: what it searches, keeps and finds again. Timing is replaced by a rule, so that every result is known.
local artifact = require "esper.artifact"
local compile = require "esper.compile"
local duel = require "esper.bench.duel"
local esper = require "esper"
local files = require "support.files"
local native = require "esper.native"
local process = require "support.process"
local text = require "esper.text"
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

-- Nanoseconds that the rule gives for choices: `quick` = { [choice] = value that saves a fifth }.
local function cost(chosen, quick)
  local ns = 1e6
  for name, value in pairs(quick) do
    if chosen[name] == value then ns = ns * 0.8 end
  end
  return ns
end

-- Runs body with order and duels decided by cost().
local function ruled(quick, body)
  local duels, order = duel.run, tune.order
  function tune.order(best, mine)
    for _, side in ipairs { mine, best } do assert(side.run(1, native.new "double[1]")) end
    local ratio = cost(mine.chosen, quick) / cost(best.chosen, quick)
    return ratio < 1, ratio
  end
  function duel.run(sides)
    local out, one = {}, native.new "double[1]"
    for _, side in ipairs(sides) do
      assert(side.run(1, one))
      local all = {}
      for _, list in pairs(side.compiled.choices) do
        for name, c in pairs(list) do all[name] = c.value end
      end
      local ns = cost(all, quick)
      out[side.name] = { median = ns, low = ns, high = ns, count = 1, rounds = { ns, ns, ns } }
    end
    return out
  end
  local ok, result = pcall(body)
  duel.run, tune.order = duels, order
  return assert(ok and result, result)
end

-- A choice of a recipe that makes a difference at these sizes, of more than two candidates; `other` is not its default.
local function some_choice(path, set, size)
  local case = require("esper.bench.suite").case(path, { set = set, size = size })
  local side = assert(require("esper.bench.sides").esper(case, { compiles = 1 }))
  local taken = require("esper.parts").new(side)
  for _, e in ipairs(taken.list) do
    assert(taken:make(e, {})).free()
    for _, name in ipairs(text.keys(e.choices)) do
      local list, live = e.choices[name].candidates, 0
      for i = 2, #list do
        local part = taken:make(e, { [name] = list[i] })
        if part then live = live + 1 part.free() end
      end
      if live > 1 and live == #list - 1 then
        return { signature = e.signature, name = name, candidates = list, default = list[1], other = list[#list] }, side.compiled
      end
    end
  end
  error "no choice makes a difference"
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
    local rows, trials = {}, 0
    for _, row in ipairs(report.rows) do
      local mine = row.choices[choice.name]
      if mine then assert.same({ default = choice.default, best = choice.other }, mine) end
      assert.is_true(math.abs((mine and 0.8 or 1) - row.after / row.before) < 1e-9)
      rows[row.group], trials = row, trials + row.trials
    end
    assert.truthy(rows["whole kernel"].choices.contract_epilogue)
    assert.is_true(math.abs(report.after / report.before - 0.8) < 1e-9)
    assert.equal(report.trials, trials)
    assert.is_true(trials > #choice.candidates and #told >= trials)
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
    local choice, parts = some_choice(path), require "esper.parts"
    local new = parts.new
    finally(function() parts.new = new end)
    function parts.new(...)
      local taken = new(...)
      local make = taken.make
      function taken:make(e, values)
        local part = make(self, e, values)
        local run = part and part.run
        if run and next(values) then
          function part.run(reps, ns)
            assert(run(reps, ns))
            for _, t in pairs(part.results()) do t.data[0] = t.data[0] + 1000 end
            return true
          end
        end
        return part
      end
      return taken
    end
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
    local none = ruled({}, function() return esper.tune(path, { budget = 60 }) end)
    assert.is_false(none.kept)
    local key, status = compiled(path, directory)
    assert.equal("CACHED", status)
    assert.is_true(key ~= tuned)
    assert.is_nil(esper.store():get(key).target:find "tuned")
  end)

  it("tunes a case of the suite under its blueprint's name", function()
    local choice = some_choice("transformer/mlp_small", { dim = 64 }, { batch = 1, tokens = 1 })
    local report = ruled({ [choice.name] = choice.other }, function() return esper.tune("mlp 64x128 b1", { budget = 60 }) end)
    assert.is_true(report.kept and report.name == "mlp 64x128 b1")
    local kernel = assert(esper.compile("transformer/mlp_small", { set = { dim = 64 }, size = { batch = 1, tokens = 1 } }))
    assert.equal("CACHED", kernel.status)
    assert.truthy(esper.store():get(kernel.key).target:find "tuned")
    local usual = assert(esper.compile("transformer/mlp_small", { set = { dim = 64 } }))
    assert.is_nil(esper.store():get(usual.key).target:find "tuned")
  end)

  it("keeps a tuning per class of sizes, and compiles with the nearest", function()
    local choice, many = some_choice(path, nil, { batch = 1 }), some_choice(path, nil, { batch = 4096 })
    local function keys(batch)
      local size = batch and { batch = batch }
      local key = assert(esper.compile(path, { size = size })).key
      assert.equal(key, assert(esper.compile(path, { size = size, anew = true })).key) -- by the index and by the graph
      return key
    end
    local plain = keys()
    local function tuned(name, value, batch)
      ruled({ [name] = value }, function() return esper.tune(path, { budget = 60, size = { batch = batch } }) end)
      return keys(batch)
    end
    local small, large = tuned(choice.name, choice.other, 1), tuned(many.name, many.candidates[2], 4096)
    assert.is_true(small ~= plain and large ~= plain and small ~= large)
    for batch, key in pairs { [2] = small, [4] = small, [5] = plain, [900] = plain, [1024] = large, [16384] = large, [20000] = plain } do
      assert.equal(key, keys(batch), batch)
    end
    assert.equal(plain, keys()) -- batch 8
    tuned(choice.name, "none", 4) -- the defaults are best there
    for batch, key in pairs { [1] = small, [3] = plain, [4] = plain } do assert.equal(key, keys(batch), batch) end
    for _, how in ipairs { {}, { anew = true } } do
      local none, why, status = esper.compile(path, { anew = how.anew, size = { rows = 2 } })
      assert.is_nil(none)
      assert.truthy(why:find "no symbolic dimension 'rows' in t/tuned; it has batch")
      assert.equal("ESHAPE", status)
    end
  end)

  it("computes with parts what the whole kernel computes", function()
    local parts, sides, suite = require "esper.parts", require "esper.bench.sides", require "esper.bench.suite"
    local source = [[return blueprint "t/parts" { hyper = { dim = 40 }, input = { x = { "batch", "dim" } },
      build = function(g, x, h)
        local w = g.param("w", { h.dim, h.dim }, g.normal(0, 0.1))
        local y = g.softmax(g.matmul(g.layer_norm(x, { name = "n" }), g.relu(w)), -1)
        return { y = g.dropout(y, 0.1) + x, z = g.sum(y, { 1 }) }
      end }]]
    for _, mode in ipairs { "eval", "train" } do
      local side = assert(sides.esper(suite.case(files.write("parts.lua", source), { mode = mode }), { compiles = 1 }))
      assert(side.run(1, native.new "double[1]"))
      local taken = parts.new(side)
      assert.is_true(#taken.list > 0)
      for name, t in pairs(side.results()) do
        local mine
        for id, value in pairs(taken.values) do
          for _, root in ipairs(taken.f.roots) do
            if side.compiled.groups.views.at[root.node].base == id and name == root.kind .. " " .. root.name then mine = value end
          end
        end
        for i = 0, t.count - 1 do assert.equal(t.data[i], mine.data[i]) end
      end
      for _, e in ipairs(taken.list) do
        local part = assert(taken:make(e, {}))
        assert.is_false(taken:make(e, {}))
        assert(part.run(2, native.new "double[2]"))
        part.free()
      end
    end
  end)

  it("offers nothing that computes something else: drawn choices are proved", function()
    local draws, proved = native.new "uint32_t[1]", 0
    local function any(list) -- the same in every run
      draws[0] = draws[0] * 1664525 + 1013904223
      return list[math.floor(draws[0] / 65536) % #list + 1]
    end
    local function prove(source, options)
      local first = compile.compile(source, options)
      local choices = {}
      for _, signature in ipairs(text.keys(first and first.choices or {})) do
        choices[signature] = {}
        for _, name in ipairs(text.keys(first.choices[signature])) do
          choices[signature][name] = any(first.choices[signature][name].candidates)
        end
      end
      if not next(choices) then return end
      local made = require("esper.kernel").wrap(assert(compile.again(first, choices)))
      local certificate = require("esper.validate").certify(made, { shapes = 3, seed = 1, torch = false })
      assert.is_nil(certificate.failure, tuning.encode(choices))
      proved = proved + 1
      collectgarbage()
    end
    for _, name in ipairs(esper.catalogue()) do
      for _, mode in ipairs(name:find "^[ct]" and { "eval", "train" } or {}) do
        prove(name, { build = require("esper.sandbox").build, mode = mode })
      end
    end
    for seed = 1, 40 do
      local g = require("support.random_graph").make(seed)
      local function build() return g, { name = "spec/drawn", mode = "eval", dtype = "f32", hyper = {} } end
      if g then prove("spec/drawn", { build = build }) end
    end
    assert.is_true(proved > 40)
  end)

  it("takes turns until the order is clear, and no longer", function()
    -- a side whose runs take what a rule says; how often it ran
    local function side(time, noise)
      local s, seed = { time = time, runs = 0 }, 1
      function s.run(reps, ns)
        for i = 0, reps - 1 do
          seed = (seed * 16807) % 2147483647
          ns[i] = time * (1 + (noise or 0) * (seed / 2147483647 - 0.5))
        end
        s.runs = s.runs + 1
        return true
      end
      return s
    end
    local function order(mine, best)
      local wins, ratio = tune.order(best, mine)
      return wins, ratio, mine.runs
    end
    assert.same({ false, nil, 2 }, { order(side(200), side(100)) }) -- at first sight
    for _, us in ipairs { 1, 50, 5000 } do
      local wins, ratio = order(side(900 * us, 0.02), side(1000 * us, 0.02))
      assert.is_true(wins and ratio > 0.85 and ratio < 0.95)
      local lost, _, runs = order(side(1050 * us, 0.02), side(1000 * us, 0.02))
      assert.is_true(not lost and runs <= 5)
      assert.is_false((order(side(995 * us), side(1000 * us))))
    end
    local wins = 0
    for i = 1, 200 do
      local mine, best = side(1000 + i, 0.1), side(1000, 0.1)
      if order(mine, best) then wins = wins + 1 end
    end
    assert.is_true(wins <= 10) -- noise of 10 % hides little
    local broken = { time = 1, run = function() return nil, "no memory", "ENOMEM" end }
    assert.has_error(function() tune.order(side(1), broken) end)
  end)

  it("refuses what it cannot read, in one line", function()
    for words, wanted in pairs { ["--budget 2m"] = "want a time like 500ms or 2s", ["--budget 0s"] = "want a time", ["--budget 1e9"] =
        "want a time", ["--size batch"] = "%-%-size batch: want name=value", ["--size batch=1.5"] = "want a whole number",
        ["--size rows=3"] = "no symbolic dimension 'rows' in transformer/mlp", ["--size batch=9e9"] = "takes 0 to", ["--threads x"] =
        "want a whole number" } do
      local out = process.must(("%s/esper tune transformer/mlp %s 2>&1 || true"):format(process.build, words))
      assert.truthy(out:find(wanted), out)
      assert.equal(1, select(2, out:gsub("\n", "\n")))
    end
  end)

  it("ends with Ctrl-C and keeps what it has; nobody waits for it meanwhile", function()
    local out = directory .. "/out"
    local pid = process.must(([[ESPER_STORE='%s' %s/esper tune transformer/mlp --budget 60s --json > '%s' 2>&1 & echo $!]])
      :format(directory, process.build, out)):match "%d+"
    process.must "sleep 0.7"
    assert.truthy(compiled(path, directory)) -- while it tunes
    process.must("kill -0 " .. pid .. " && kill -INT " .. pid)
    local text = ""
    for _ = 1, 200 do
      local file = assert(io.open(out))
      text = file:read "*a"
      file:close()
      if text:find '"trials"' then break end
      process.must "sleep 0.05"
    end
    assert.truthy(text:find '"interrupted": true')
    assert.truthy(text:find '"complete": false')
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
    for _, text in ipairs { "nonsense", "no class\n", "\n", "class batch=8", "class batch=128\nabcdef x=1\n", "class tokens=8\nabcdef x=1\n",
      "class batch=0\nabcdef x=1\n", "class batch=8\n" } do
      assert.same({ unit, key }, { unit_with(text) }, text) -- nothing for these sizes
    end
    for _, text in ipairs { "nonsense\n", "abcdef = \n", choice.signature .. " " .. choice.name .. "=77777\n",
      choice.signature .. " gone=3\n", "0123456789abcdef " .. choice.name .. "=" .. tostring(choice.other) .. "\n",
      choice.signature .. "\0\255 x=1\n", "0 contract_epilogue=77\n" } do
      local mine, other = unit_with("class batch=8\n" .. text)
      assert.equal(unit, mine, text)
      assert.is_true(other ~= key) -- what is tuned is never mixed with what is not, even where it changes nothing
    end
    assert.is_true(unit ~= unit_with("class batch=8\n" .. tuning.encode { [choice.signature] = { [choice.name] = choice.other } }))
    assert.is_true(unit ~= unit_with "class batch=8\n0 contract_epilogue=apart\n")
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
      for i = 1, 30 do assert(require("esper.artifact").save_tuning(store.ptr, r, "class batch=8\nabcdef0123456789 rows=" .. arg[2] .. "\n")) end]])
    process.must(("%s '%s' 1 & %s '%s' 2 & wait %%1 && wait %%2"):format(one, path, one, path))
    local text = artifact.tuning(esper.store().ptr, r)
    assert.truthy(text:find "^class batch=8\nabcdef0123456789 rows=[12]\n$")
  end)
end)
