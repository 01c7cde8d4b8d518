-- Views, grouping and the memory plan: what is read in place, what is fused, what is copied, what shares memory.
-- That kernels made from all this compute the right numbers is judged by random_spec and catalogue_spec.
local blueprint = require "esper.blueprint"
local compile = require "esper.compile"
local facts = require "esper.facts"
local graphs = require "esper.graph"
local group = require "esper.group"
local native = require "esper.native"
local views = require "esper.views"

local function graph(lines)
  return assert(graphs.parse('graph "t/t"\nsymbol b 0 1024\n' .. lines:gsub("^%s+", ""):gsub("\n%s+", "\n")))
end

-- Groups as "kind: prologue | anchor | epilogue -> outputs", ids only.
local function shape_of(result)
  local out = {}
  for i, g in ipairs(result.groups) do
    out[i] = ("%s: %s | %s | %s -> %s"):format(g.kind, table.concat(g.prologue, " "), tostring(g.anchor or ""),
      table.concat(g.epilogue, " "), table.concat(g.outputs, " "))
  end
  return out
end

local function groups(lines)
  local result = assert(group.build(graph(lines)))
  assert(group.verify(result))
  return result, shape_of(result)
end

describe("grouping", function()
  it("puts pointwise work behind an anchor into the anchor's group", function()
    local _, shape = groups [[
      %0 = input "x" f32[b, 8]
      %1 = param "w" f32[8, 8] init=zeros
      %2 = linear %0 %1 : f32[b, 8]
      %3 = gelu %2 tanh=0 : f32[b, 8]
      %4 = add %3 %0 : f32[b, 8]
      output "y" %4 ]]
    assert.same({ "contract:  | 2 | 3 4 -> 4" }, shape)
  end)

  it("stores what is needed outside the group too", function()
    local _, shape = groups [[
      %0 = input "x" f32[b, 8]
      %1 = tanh %0 : f32[b, 8]
      %2 = add %1 %0 : f32[b, 8]
      %3 = layer_norm %2 dims=1 eps=1e-05 : f32[b, 8]
      %4 = add %3 %2 : f32[b, 8]
      output "y" %4 ]]
    assert.same({ "pointwise:  |  | 1 2 -> 2", "norm:  | 3 | 4 -> 4" }, shape)
  end)

  it("puts work that only feeds a norm or reduction before it, unless it is random or needed elsewhere", function()
    local _, shape = groups [[
      %0 = input "x" f32[b, 8]
      %1 = tanh %0 : f32[b, 8]
      %2 = add %1 %0 : f32[b, 8]
      %3 = softmax %2 axis=1 : f32[b, 8]
      %4 = dropout %3 p=0.5 stream=0 : f32[b, 8]
      %5 = reduce_sum %4 axes=1 keepdim=0 : f32[b]
      output "y" %5 ]]
    assert.same({ "norm: 1 2 | 3 | 4 -> 4", "reduce:  | 5 |  -> 5" }, shape)
  end)

  it("never makes a cycle: what waits for another group stays out", function()
    local _, shape = groups [[
      %0 = input "x" f32[b, 8]
      %1 = relu %0 : f32[b, 8]
      %2 = permute %1 perm=1,0 : f32[8, b]
      %3 = reduce_mean %2 axes=0 keepdim=0 : f32[b]
      %4 = reshape %3 shape=[b, 1] : f32[b, 1]
      %5 = add %1 %4 : f32[b, 8]
      output "y" %5 ]]
    assert.same({ "pointwise:  |  | 1 -> 1", "reduce:  | 3 |  -> 3", "pointwise:  |  | 5 -> 5" }, shape)
  end)

  it("moves work of one shape to where it can be fused", function()
    local _, shape = groups [[
      %0 = input "x" f32[b, 8]
      %1 = param "w" f32[8, 8] init=zeros
      %2 = linear %0 %1 : f32[b, 8]
      %3 = input "z" f32[b, 8]
      %4 = sigmoid %3 : f32[b, 8]
      %5 = mul %2 %4 : f32[b, 8]
      output "y" %5 ]]
    assert.same({ "contract:  | 2 | 4 5 -> 5" }, shape)
  end)

  it("gives values of different width groups of their own", function()
    local _, shape = groups [[
      %0 = input "x" f32[b, 8]
      %1 = tanh %0 : f32[b, 8]
      %2 = cast %1 to=f64 : f64[b, 8]
      %3 = tanh %2 : f64[b, 8]
      output "y" %3 ]]
    assert.same(3, #shape)
  end)

  it("reads heads of attention in place and stores them where they are merged", function()
    local result, shape = groups [[
      %0 = input "x" f32[b, 10, 24]
      %1 = slice %0 axis=2 start=[0] stop=[8] step=1 : f32[b, 10, 8]
      %2 = reshape %1 shape=[b, 10, 2, 4] : f32[b, 10, 2, 4]
      %3 = permute %2 perm=0,2,1,3 : f32[b, 2, 10, 4]
      %4 = sdpa %3 %3 %3 causal=1 scale=0 : f32[b, 2, 10, 4]
      %5 = permute %4 perm=0,2,1,3 : f32[b, 10, 2, 4]
      %6 = reshape %5 shape=[b, 10, 8] : f32[b, 10, 8]
      output "y" %6 ]]
    assert.same({ "attention:  | 4 |  -> 4" }, shape)
    local function texts(dims)
      local out = {}
      for i, d in ipairs(dims) do out[i] = result.facts.D:text(d) end
      return out
    end
    assert.same({ "240", "4", "24", "1" }, texts(result.groups[1].args[4][1].strides))
    assert.same({ "80", "4", "8", "1" }, texts(result.groups[1].layout))
    assert.same({ 4, 4 }, { result.alias[5], result.alias[6] })
  end)

  it("copies what attention computed where others read it, or rows are torn apart", function()
    local attention = [[
      %0 = input "x" f32[b, 3, 5, 4]
      %1 = sdpa %0 %0 %0 causal=1 scale=0 : f32[b, 3, 5, 4]
      ]]
    local merged = [[
      %2 = permute %1 perm=0,2,1,3 : f32[b, 5, 3, 4]
      %3 = reshape %2 shape=[b, 5, 12] : f32[b, 5, 12]
      output "y" %3
      ]]
    local anchor, copy = "attention:  | 1 |  -> 1", "pointwise:  |  | 2 -> 2"
    local function same(want, lines) assert.same(want, (select(2, groups(attention .. lines)))) end
    same({ anchor }, merged)
    same({ anchor, copy }, merged .. 'output "z" %1')
    same({ anchor, copy, "reduce:  | 4 |  -> 4" },
      merged .. '%4 = reduce_sum %1 axes=1,2,3 keepdim=0 : f32[b]\noutput "z" %4')
    same({ anchor, copy },
      '%2 = permute %1 perm=0,1,3,2 : f32[b, 3, 4, 5]\n%3 = reshape %2 shape=[b, 60] : f32[b, 60]\noutput "y" %3')
    same({ "attention:  | 1 | 2 -> 2", "pointwise:  |  | 3 -> 3" }, [[
      %2 = exp %1 : f32[b, 3, 5, 4]
      %3 = permute %2 perm=0,2,1,3 : f32[b, 5, 3, 4]
      output "y" %3 ]])
  end)

  it("fuses nothing behind attention that is stored in another order, though shapes agree", function()
    local _, shape = groups [[
      %0 = input "x" f32[b, 3, 3, 4]
      %1 = sdpa %0 %0 %0 causal=1 scale=0 : f32[b, 3, 3, 4]
      %2 = permute %1 perm=0,2,1,3 : f32[b, 3, 3, 4]
      %3 = add %2 %0 : f32[b, 3, 3, 4]
      output "y" %3 ]]
    assert.same({ "attention:  | 1 |  -> 1", "pointwise:  |  | 3 -> 3" }, shape)
  end)

  it("copies no activation in self-attention", function()
    for _, name in ipairs { "first/attn_std", "first/attn_split_qk", "transformer/attention", "transformer/flex_attention" } do
      for _, g in ipairs(assert(compile.early(name, { mode = "eval" })).groups.groups) do
        assert.is_true(g.kind ~= "pointwise", name .. " has a pass of its own that computes nothing")
      end
    end
  end)

  it("copies a root that is a view of a leaf, a second name of one value, or a constant", function()
    local result, shape = groups [[
      %0 = input "x" f32[b, 8]
      %1 = permute %0 perm=1,0 : f32[8, b]
      %2 = relu %0 : f32[b, 8]
      %3 = reshape %2 shape=[8*b] : f32[8*b]
      %4 = reshape %2 shape=[b, 2, 4] : f32[b, 2, 4]
      %5 = const f32[] value=2
      %6 = expand %5 shape=[b] : f32[b]
      output "a" %1
      output "c" %3
      output "d" %4
      output "e" %6 ]]
    assert.same({ "pointwise:  |  | 1 -> 1", "pointwise:  |  | 2 -> 2", "pointwise:  |  | 4 -> 4",
      "pointwise:  |  | 6 -> 6" }, shape)
    assert.equal(2, result.alias[3])
    assert.equal(2, result.groups[4].args[6][1].const)
  end)

  it("refuses roots without storage, naming the cure", function()
    local result, why = group.build(graph '%0 = input "x" f32[b, 8]\noutput "y" %0\n')
    assert.is_nil(result)
    assert.truthy(why:find("run the pass 'roots'", 1, true))
  end)

  it("stays linear on long chains and wide fans", function()
    local D = graphs.dims()
    local g = assert(graphs.new("t/t", D))
    local x = g:add { op = "input", name = "x", attrs = { shape = { D:symbol "b", D:const(4) } } }
    local hub, sum = g:add { op = "tanh", inputs = { x } }, x
    for i = 1, 4000 do
      sum = g:add { op = "add", inputs = { sum, (g:add { op = "scale", inputs = { hub }, attrs = { mul = i } }) } }
    end
    g:root("output", "y", sum)
    local start = os.clock()
    assert(group.verify(assert(group.build(g))))
    assert.is_true(os.clock() - start < 3)
  end)
end)

describe("views", function()
  -- Addresses of all elements in row-major order.
  local function addresses(shape, strides)
    local out, index = {}, {}
    local function walk(axis, at)
      if axis > #shape then out[#out + 1] = at return end
      for i = 0, shape[axis] - 1 do walk(axis + 1, at + i * strides[axis]) end
    end
    walk(1, 0)
    return out, index
  end

  local function handles(D, list)
    local out = {}
    for i, n in ipairs(list) do out[i] = D:const(n) end
    return out
  end

  it("reshape through strides exactly when the elements lie so", function()
    local D, seen, none = graphs.dims(), 0, 0
    local cases = {
      { { 2, 3, 4 }, { 12, 4, 1 }, { 6, 4 } }, { { 2, 3, 4 }, { 12, 4, 1 }, { 24 } },
      { { 2, 3, 4 }, { 24, 8, 2 }, { 2, 12 } }, { { 3, 2, 4 }, { 4, 12, 1 }, { 3, 2, 2, 2 } },
      { { 4, 1, 6 }, { 6, 77, 1 }, { 2, 2, 3, 2, 1 } }, { { 2, 3 }, { 0, 0 }, { 6 } },
      { { 3, 2, 4 }, { 4, 12, 1 }, { 6, 4 } }, { { 4, 6 }, { 1, 4 }, { 24 } },
      { { 2, 3 }, { 3, 2 }, { 6 } }, { { 4, 6 }, { 1, 4 }, { 6, 4 } },
    }
    for _, case in ipairs(cases) do
      local strides = views.reshape(D, handles(D, case[1]), handles(D, case[2]), handles(D, case[3]))
      if strides then
        local numbers = {}
        for i, d in ipairs(strides) do numbers[i] = D:value(d) end
        assert.same(addresses(case[1], case[2]), (addresses(case[3], numbers)))
        seen = seen + 1
      else
        none = none + 1
      end
    end
    assert.same({ 6, 4 }, { seen, none })
  end)

  it("know symbolic extents", function()
    local D = graphs.dims()
    local b, t = D:symbol "b", D:symbol "t"
    local shape = { b, t, D:const(8) }
    local strides = views.reshape(D, shape, views.contiguous(D, shape), { D:mul(b, t), D:const(2), D:const(4) })
    assert.same({ "8", "4", "1" }, { D:text(strides[1]), D:text(strides[2]), D:text(strides[3]) })
  end)
end)

describe("the memory plan", function()
  -- Values that are alive in one step at once never share a slot; returns slots and temporaries.
  local function check(plan)
    local C = native.C
    local first, last = {}, {}
    for s = 0, C.es_plan_step_count(plan) - 1 do
      local step = C.es_plan_step_get(plan, s)
      for k = 0, step.operand_count - 1 do
        local v = step.operands[k]
        first[v], last[v] = first[v] or s, s
      end
    end
    local temps = {}
    for i = 0, C.es_plan_value_count(plan) - 1 do
      local v = C.es_plan_value_get(plan, i)
      if v.slot >= 0 then
        if v.buffer >= 0 then last[i] = math.huge end
        temps[#temps + 1] = { index = i, slot = v.slot }
      end
    end
    for i, a in ipairs(temps) do
      for k = i + 1, #temps do
        local c = temps[k]
        if a.slot == c.slot then
          assert.is_true(last[a.index] < first[c.index] or last[c.index] < first[a.index])
        end
      end
    end
    local shared = 0
    for slot = 0, C.es_plan_slot_count(plan) - 1 do
      if not C.es_plan_slot_kept(plan, slot) then shared = shared + 1 end
    end
    return shared, #temps
  end

  for _, name in ipairs(blueprint.catalogue()) do
    it("of " .. name .. " shares only what is dead", function()
      for _, mode in ipairs { "eval", "train" } do
        local r, why = compile.compile(name, { mode = mode })
        assert.truthy(r, tostring(why))
        check(r.plan)
      end
    end)
  end

  it("of a deep network needs few slots", function()
    local slots, temps = check(assert(compile.compile("hosts/transformer_host")).plan)
    assert.is_true(slots <= 4 and temps > 40)
  end)

  it("keeps parameters in the signature that a pass leaves without reader", function()
    local function build()
      local g = graph [[
        %0 = input "x" f32[b, 8]
        %1 = param "unused" f32[8] init=ones
        %2 = const f32[] value=0
        %3 = lerp %0 %1 %2 : f32[b, 8]
        %4 = relu %3 : f32[b, 8]
        output "y" %4 ]]
      return assert(g:canonical()), { name = "t/t", hyper = {}, mode = "eval", dtype = "f32" }
    end
    local r = assert(compile.compile("t/t", { build = build }))
    assert.is_true(native.C.es_plan_find(r.plan, native.role.param, "unused") >= 0)
    assert.equal(1, r.kernels)
  end)
end)

describe("facts", function()
  it("know every op that is no anchor as a pointwise op or a view", function()
    for name, info in pairs(native.opinfo) do
      local plain = info.class == "leaf" or info.class == "pointwise" or info.class == "random" or facts.view[name]
      assert.equal(not plain, facts.kind_of[name] ~= nil, name)
    end
  end)
end)
