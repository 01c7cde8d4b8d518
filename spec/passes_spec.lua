-- Passes: each takes the opportunity planted for it and keeps the meaning; user passes; groups; the memory plan.
local compile = require "esper.compile"
local graph = require "esper.graph"
local group = require "esper.group"
local judge = require "support.judge"
local native = require "esper.native"
local passes = require "esper.passes"
local random_graph = require "support.random_graph"
local validate = require "esper.validate"
local C = native.C

local HEAD = 'graph "t/p"\nsymbol b 1 50\n%0 = input "x" f32[b, 8, 5, 5]\n%1 = param "w" f32[4, 8, 3, 3] init=normal(0, 0.3)\n'
  .. '%2 = buffer "m" f32[4] init=zeros\n%3 = buffer "v" f32[4] init=ones\n%4 = input "y" f32[b, 8, 5, 5]\n'

-- pass, nodes after HEAD, op that must be gone afterwards, op that must have come (or nil).
local PLANTED = {
  { "fold", "%5 = const f32[] value=2\n%6 = const f32[] value=3\n%7 = mul %5 %6\n%8 = mul %0 %7", " mul %5", "value=6" },
  { "algebra", "%5 = neg %0\n%6 = neg %5\n%7 = add %6 %4", "add %6 %4", "add %0 %1" },
  { "algebra", "%5 = permute %0 perm=0,2,3,1\n%6 = permute %5 perm=0,3,1,2\n%7 = relu %6", "relu %6", "relu %0" },
  { "algebra", "%5 = scale %0 mul=1 add=0\n%6 = exp %5", "exp %5", "exp %0" },
  { "cse", "%5 = tanh %0\n%6 = tanh %0\n%7 = add %5 %6", "tanh %0.*tanh %0", "tanh" },
  { "batchnorm_conv", "%5 = conv2d %0 %1 pad=1,1\n%6 = batch_norm %5 %2 %3\n%7 = relu %6", "batch_norm", "rsqrt" },
  { "layout", "%5 = exp %0\n%6 = permute %5 perm=0,2,3,1\n%7 = relu %6", "permute.*relu", "relu.*permute" },
  { "dead", "%5 = exp %0\n%6 = relu %0", "exp", "relu" },
}

local function planted(row)
  local last = row[2]:match ".*%%(%d+) ="
  return assert(graph.parse(HEAD .. row[2] .. "\noutput \"o\" %" .. last .. "\n"))
end
-- Node numbers stand as %5 in the table's patterns.
local function holds(text, pattern) return (text:gsub("\n", " ")):find((pattern:gsub("%%(%d)", "%%%%%1"))) end
local function sums() return { kernel = validate.new_sum(), torch = validate.new_sum() } end
local function user(text) return passes.user(passes.default(), text, "mine.lua") end
local function small() return assert(graph.parse('graph "t/s"\nsymbol b 1 9\n%0 = input "x" f32[b, 8]\n%1 = relu %0\noutput "y" %1\n')) end
local function build_small() return small(), { name = "t/s", mode = "eval", dtype = "f32", hyper = {} } end

describe("passes", function()
  for i, row in ipairs(PLANTED) do
    it(("%s takes what was planted for it (%d) and keeps the meaning"):format(row[1], i), function()
      local g = planted(row)
      assert.truthy(holds(g:text(false), row[3]), "planted text")
      local chosen = {}
      for _, p in ipairs(passes.default()) do if p.name == row[1] or p.name == "dead" then chosen[#chosen + 1] = p end end
      local result, report = assert(passes.run(g, chosen, { mode = "eval", show = true }))
      local changed = 0
      for _, r in ipairs(report) do if r.name == row[1] then changed = r.changed end end
      assert.is_true(changed > 0 or row[1] == "dead")
      local after = result:text(false)
      assert.falsy(holds(after, row[3]), after)
      assert.truthy(holds(after, row[4]), after)
      assert.is_true(report[1].before ~= report[#report].after)
      for index = 1, 3 do assert.is_nil(judge.graph(planted(row), i, sums(), { index = 9 + index, mode = "eval" })) end
    end)
  end

  it("of a user add, replace, reorder and drop, and are part of the key", function()
    local keys = {}
    for what, text in pairs {
      add = 'return { name = "mine", run = function(g) return g end }',
      changed = 'return { name = "mine", run = function(g) return g, 0 end }',
      drop = 'return { passes = function(l) table.remove(l, 2) return l end }',
      reorder = 'return { passes = function(l) l[2], l[3] = l[3], l[2] return l end }',
      replace = 'return { passes = function(l) l[2] = { name = "fold", run = function(g) return g end } return l end }',
    } do
      local made = assert(compile.compile("t/s", { build = build_small, passes = { text = text, name = what .. ".lua" } }))
      assert.is_nil(keys[made.key], what)
      keys[made.key] = what
    end
    assert.is_nil(keys[assert(compile.compile("t/s", { build = build_small })).key])
  end)

  it("of a user that are broken are named and refused", function()
    for text, fragment in pairs {
      ["return 3"] = "returned a number", ["x ="] = "mine.lua:1:", ["error('no')"] = "no", [string.dump(function() end)] = "compiled Lua",
      ['return { name = "a b", run = function() end }'] = "pass name", ["return { passes = function() return 1 end }"] = "wanted the list",
      ["return { passes = function() return { 1 } end }"] = "entry 1",
    } do
      local list, why = user(text)
      assert.is_nil(list)
      assert.truthy(why:find(fragment, 1, true), why)
    end
    for code, fragment in pairs {
      ["return nil"] = "returned nil", ["error('boom')"] = "boom",
      ["return ctx:rebuild(g, function(b, id) if b.src:op(id) == 'relu' then return b:add { op = 'softmax', inputs = { b:input(id, 1) }, "
        .. "attrs = { axis = 9 } } end end)"] = "softmax",
    } do
      local made, why = compile.compile("t/s", { build = build_small,
        passes = { text = 'return { name = "mine", run = function(g, ctx) ' .. code .. " end }", name = "mine.lua" } })
      assert.is_nil(made, code)
      assert.truthy(why:find("pass 'mine'", 1, true) and why:find(fragment, 1, true), why)
    end
  end)

  it("leave graphs that grouping can replay, and plans without overlap", function()
    local seed, groups, shared, planned, naive, lodgers = 1, 0, 0, 0, 0, 0
    for s = seed, 200 do
      local g = random_graph.make(s)
      if g then
        local made = assert(compile.compile("t/r", { mode = "train", build = function() return g, { name = "t/r", mode = "train", dtype = "f32", hyper = {} } end }))
        local final = assert(passes.run(g, passes.default(), { mode = "train" }))
        local grouped = assert(group.build(final))
        assert(group.verify(grouped))
        groups = groups + #grouped.groups
        -- independent: a temporary lives from the first to the last step that names it, an output to the end; sharers of a
        -- slot or an output must not meet
        local first, last, plan = {}, {}, made.plan
        for n = 0, C.es_plan_step_count(plan) - 1 do
          local step = C.es_plan_step_get(plan, n)
          for k = 0, step.operand_count - 1 do
            local v = step.operands[k]
            first[v], last[v] = first[v] or n, n
          end
        end
        local bySlot = {}
        for v, from in pairs(first) do
          local value = C.es_plan_value_get(plan, v)
          local role, slot = native.rolename[value.role], value.slot
          if role == "output" then slot, last[v] = "output " .. v, math.huge end
          if role == "temp" and slot < 0 then slot, lodgers = "output " .. value.buffer, lodgers + 1 end
          if slot ~= -1 then
            for _, other in ipairs(bySlot[slot] or {}) do
              assert.is_true(last[v] < first[other] or last[other] < from, ("seed %d: values %d and %d meet in slot %s"):format(s, v, other, slot))
              shared = shared + 1
            end
            bySlot[slot] = bySlot[slot] or {}
            table.insert(bySlot[slot], v)
            planned = planned + (#bySlot[slot] == 1 and 1 or 0)
            naive = naive + 1
          end
        end
        if s % 32 == 0 then collectgarbage() end
      end
    end
    print(("plans %d %d 0 %d_temporaries_in_%d_slots"):format(seed, groups, naive, planned))
    assert.is_true(shared > 0 and planned < naive and lodgers > 0)
  end)
end)
