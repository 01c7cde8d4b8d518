-- The rules of the passes one by one: what each makes of the smallest graph it applies to, and what it must leave alone.
-- That whole graphs keep their meaning is judged by passes_spec and random_spec.
local graphs = require "esper.graph"
local passes = require "esper.passes"

-- A graph from node lines after the input %0; the last node is the output.
local function graph(lines, input)
  local text = 'graph "t/t"\nsymbol b 0 1024\n' .. (input or '%0 = input "x" f32[b, 4]') .. "\n" .. lines .. "\n"
  if not text:find("\noutput", 1, true) then text = text .. 'output "y" ' .. text:match ".*\n(%%%d+) =" .. "\n" end
  return assert(graphs.parse(text))
end

local function only(...)
  local list = {}
  for _, name in ipairs { ... } do
    for _, pass in ipairs(passes.default()) do
      if pass.name == name then list[#list + 1] = pass end
    end
  end
  return list
end

-- Text of the graph after one pass and `dead`, and how much the pass changed.
local function after(name, lines, options)
  options = options or {}
  local result, report = passes.run(graph(lines, options.input), only(name, "dead"), { mode = options.mode or "eval" })
  assert(result, report)
  return result:text(false), report[1].changed
end

local function has(text, what) assert.truthy(text:find(what, 1, true), text) end
local function lacks(text, what) assert.falsy(text:find(what, 1, true), text) end

describe("algebra", function()
  -- nodes before; what must be there after; what must not
  local cases = {
    { "%1 = neg %0\n%2 = neg %1\n%3 = relu %2", "relu %0", "neg" },
    { "%1 = neg %0\n%2 = abs %1", "abs %0", "neg" },
    { "%1 = relu %0\n%2 = relu %1\n%3 = tanh %2", "relu %0", "relu %1" },
    { "%1 = scale %0 mul=1 add=0\n%2 = relu %1", "relu %0", "scale" },
    { "%1 = neg %0\n%2 = scale %1 mul=3 add=1", "scale %0 mul=-3 add=1", "neg" },
    { "%1 = const f32[] value=2\n%2 = mul %0 %1", "scale %0 mul=2 add=0", "= mul" },
    { "%1 = const f32[] value=3\n%2 = add %1 %0", "scale %0 mul=1 add=3", "= add" },
    { "%1 = const f32[] value=3\n%2 = sub %1 %0", "scale %0 mul=-1 add=3", "= sub" },
    { "%1 = const f32[] value=0\n%2 = sub %0 %1\n%3 = relu %2", "relu %0", "= sub" },
    { "%1 = const f32[] value=4\n%2 = div %0 %1", "scale %0 mul=0.25 add=0", "= div" },
    { "%1 = const f32[] value=0\n%2 = maximum %0 %1", "relu %0", "maximum" },
    { "%1 = tanh %0\n%2 = neg %0\n%3 = add %1 %2", "= sub", "neg" },
    { "%1 = tanh %0\n%2 = neg %0\n%3 = sub %1 %2", "= add", "neg" },
    { "%1 = permute %0 perm=1,0\n%2 = permute %1 perm=1,0\n%3 = relu %2", "relu %0", "permute" },
    { "%1 = reshape %0 shape=[4*b]\n%2 = reshape %1 shape=[b, 2, 2]", "reshape %0 shape=[b, 2, 2]", "shape=[4*b]" },
    { "%1 = reshape %0 shape=[b, 4]\n%2 = relu %1", "relu %0", "reshape" },
    { "%1 = slice %0 axis=1 start=[0] stop=[4] step=1\n%2 = relu %1", "relu %0", "slice" },
    { "%1 = concat %0 axis=1\n%2 = relu %1", "relu %0", "concat" },
    { "%1 = cast %0 to=f64\n%2 = cast %1 to=f32\n%3 = relu %2", "relu %0", "cast" },
    { "%1 = clamp %0 lo=-inf hi=inf\n%2 = relu %1", "relu %0", "clamp" },
    { "%1 = dropout %0 p=0 stream=0\n%2 = relu %1", "relu %0", "dropout" },
    { "%1 = stop_grad %0\n%2 = checkpoint %1\n%3 = relu %2", "relu %0", "stop_grad" },
    { "%1 = tanh %0\n%2 = const f32[] value=1\n%3 = lerp %0 %1 %2\n%4 = relu %3", "relu %", "lerp" },
    { '%1 = param "w" f32[3, 4] init=zeros\n%2 = permute %1 perm=1,0\n%3 = matmul %0 %2', "linear %0 %1", "permute" },
    { '%1 = input "z" f32[b, 5]\n%2 = permute %0 perm=1,0\n%3 = matmul %2 %1', "ta=1", "permute" },
    { '%1 = param "w" f32[3, 4] init=zeros\n%2 = linear %0 %1\n%3 = param "c" f32[3] init=zeros\n%4 = bias_add %2 %3 axis=1',
      "= linear", "bias_add" },
    { '%1 = param "w" f32[3, 4] init=zeros\n%2 = linear %0 %1\n%3 = param "c" f32[3] init=zeros\n%4 = add %2 %3',
      "= linear", "= add" },
    { '%1 = param "c" f32[4] init=zeros\n%2 = expand %1 shape=[b, 4]\n%3 = add %0 %2', "add %0 %1", "expand" },
  }
  for i, case in ipairs(cases) do
    it(("rule %d gives %s"):format(i, case[2]), function()
      local text = after("algebra", case[1])
      has(text, case[2])
      lacks(text, case[3])
    end)
  end

  -- What is not exact, or would compute something twice, stays.
  local kept = {
    { "%1 = const f32[] value=0\n%2 = add %0 %1", "x + (+0) makes +0 of -0" },
    { "%1 = const f32[] value=3\n%2 = div %0 %1", "1/3 is no float" },
    { "%1 = scale %0 mul=3 add=0\n%2 = scale %1 mul=5 add=0", "two roundings" },
    { "%1 = scale %0 mul=1 add=2\n%2 = scale %1 mul=1 add=3", "two roundings" },
    { '%1 = param "w" f32[3, 4] init=zeros\n%2 = linear %0 %1\n%3 = param "c" f32[3] init=zeros\n'
      .. "%4 = bias_add %2 %3 axis=1\n%5 = mul %4 %2", "the product has another reader" },
  }
  for _, case in ipairs(kept) do
    it("leaves alone: " .. case[2], function()
      local g = graph(case[1])
      assert.equal(g, (assert(passes.run(g, only "algebra", { mode = "eval" })))) -- the same object: nothing was rebuilt
    end)
  end

  it("keeps stop_grad and checkpoint in train mode", function()
    has(after("algebra", "%1 = stop_grad %0\n%2 = relu %1", { mode = "train" }), "stop_grad")
  end)
end)

describe("fold", function()
  it("rounds to the dtype", function()
    local text = after("fold", "%1 = const f32[] value=0.1\n%2 = const f32[] value=3\n%3 = mul %1 %2\n%4 = add %0 %3")
    assert.equal(0.30000001192092896, tonumber(text:match "const f32%[%] value=(%S+)"))
  end)

  it("folds halves to even and leaves NaN to the kernel", function()
    has(after("fold", "%1 = const f32[] value=2.5\n%2 = round %1\n%3 = add %0 %2"), "value=2\n")
    local _, changed = after("fold", "%1 = const f32[] value=-1\n%2 = sqrt %1\n%3 = add %0 %2")
    assert.equal(0, changed)
  end)
end)

describe("cse", function()
  it("merges equal nodes, also a + b with b + a, but not draws of two streams or two probes", function()
    local text = after("cse", "%1 = tanh %0\n%2 = add %0 %1\n%3 = add %1 %0\n%4 = dropout %2 p=0.5 stream=0\n"
      .. "%5 = dropout %3 p=0.5 stream=1\n%6 = mul %4 %5\n%7 = telemetry_probe %6\n%8 = telemetry_probe %6\n%9 = add %7 %8")
    local counts = {}
    for op in text:gmatch "= (%a[%w_]*)" do counts[op] = (counts[op] or 0) + 1 end
    assert.same({ 2, 2, 2 }, { counts.add, counts.dropout, counts.telemetry_probe })
  end)

  it("tells attributes apart to the last bit", function()
    local _, changed = after("cse", "%1 = scale %0 mul=0.1 add=0\n%2 = scale %0 mul=0.10000000000000002 add=0\n%3 = add %1 %2")
    assert.equal(0, changed)
  end)
end)

describe("batchnorm_conv", function()
  local STATS = '%1 = buffer "m" f32[4] init=zeros\n%2 = buffer "v" f32[4] init=ones\n'
  local IMAGE = { input = '%0 = input "x" f32[b, 4, 8, 8]' }

  it("takes the convolution's own bias along", function()
    local text = after("batchnorm_conv", STATS .. '%3 = param "w" f32[4, 4, 3, 3] init=zeros\n%4 = param "c" f32[4] init=zeros\n'
      .. "%5 = conv2d %0 %3 %4 pad=1,1\n%6 = batch_norm %5 %1 %2", IMAGE)
    lacks(text, "batch_norm")
    has(text, "rsqrt")
    assert.is_nil(text:match "conv2d %%%d+ %%%d+ %%")
  end)

  it("leaves batch norm of anything exact alone, and every one in train mode", function()
    local _, changed = after("batchnorm_conv", STATS .. "%3 = batch_norm %0 %1 %2", IMAGE)
    assert.equal(0, changed)
    has(after("batchnorm_conv", STATS .. '%3 = param "w" f32[4, 4, 3, 3] init=zeros\n%4 = conv2d %0 %3 pad=1,1\n'
      .. "%5 = batch_norm %4 %1 %2", { input = IMAGE.input, mode = "train" }), "batch_norm")
  end)
end)

describe("layout and roots", function()
  it("does pointwise work where the copy of a merged permute is made anyway", function()
    local text = after("layout", "%1 = permute %0 perm=0,2,1\n%2 = reshape %1 shape=[b, 8]\n%3 = relu %2",
      { input = '%0 = input "x" f32[b, 2, 4]' })
    assert.truthy(text:match "permute.*relu.*reshape", text)
  end)

  it("does it where the value is computed when nothing else reads that", function()
    assert.truthy(after("layout", "%1 = softmax %0 axis=1\n%2 = permute %1 perm=1,0\n%3 = relu %2"):match "relu.*permute")
    local _, changed = after("layout", "%1 = softmax %0 axis=1\n%2 = permute %1 perm=1,0\n%3 = relu %2\n%4 = sub %1 %0\n"
      .. 'output "a" %3\noutput "c" %4')
    assert.equal(0, changed)
  end)

  it("gives roots that share a node or are leaves a node of their own", function()
    local text = after("roots", '%1 = relu %0\n%2 = const f32[] value=3\noutput "a" %1\noutput "c" %1\noutput "d" %0\noutput "e" %2')
    local _, copies = text:gsub("= reshape", "")
    assert.equal(3, copies)
  end)
end)
