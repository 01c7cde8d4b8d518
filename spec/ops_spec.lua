-- Every op on hand-picked cases: the compiled kernel, between guard pages on either side, against the oracle, and both
-- against results worked out by hand. Then shapes of several tiles, which the random graphs are too small for.
local cases = require "support.op_cases"
local native = require "esper.native"
local one = require "support.one_graph"
local tensor = require "esper.tensor"
local validate = require "esper.validate"
local C = native.C

-- Graph text of a row in one float type, and the names of its leaves and outputs.
local function text_of(row, dtype)
  local lines, leaves, nodes = {}, {}, {}
  for name, extent in pairs(row.symbols or {}) do lines[#lines + 1] = ("symbol %s 0 %d"):format(name, extent) end
  for leaf in row.leaves:gmatch "%S+" do
    leaves[#leaves + 1] = string.char(96 + #leaves + 1)
    lines[#lines + 1] = ('%%%d = input "%s" %s'):format(#leaves - 1, leaves[#leaves], leaf)
  end
  for node in row.nodes:gmatch "[^|]+" do
    lines[#lines + 1] = ("%%%d = %s"):format(#leaves + #nodes, node)
    nodes[#nodes + 1] = node
  end
  local outputs = row.results and #row.results or 1
  for i = 1, outputs do
    lines[#lines + 1] = ('output "y%d" %%%d'):format(i, #leaves + #nodes - outputs + i - 1)
  end
  return (table.concat(lines, "\n") .. "\n"):gsub("f32", dtype), leaves
end

local function make(row, dtype)
  local text, leaves = text_of(row, dtype)
  local t = assert(one.compile(text, row.symbols))
  local data = {}
  for i, name in ipairs(leaves) do data[name] = row.data[i] end
  return t:give(function(name, i) return data[name][i + 1] end)
end

local function same(got, want, signs)
  if want ~= want then return got ~= got end
  return got == want and (not signs or want ~= 0 or 1 / got == 1 / want)
end

-- Nil, or how `results` and the oracle differ from what the row says.
local function differs(row, t, oracle, results)
  for i, want in ipairs(row.results) do
    local got = results["output y" .. i]
    if got.count ~= #want then return ("y%d has %d elements, wanted %d"):format(i, got.count, #want) end
    local truth = C.es_oracle_get(oracle, t.graph:roots()[i].node)
    local rounded = tensor.new(got.dtype, { 1 })
    for j, w in ipairs(want) do
      rounded.data[0] = w
      local g, value = tonumber(got.data[j - 1]), truth.value[j - 1]
      w = tonumber(w)
      if not row.near and not same(g, tonumber(rounded.data[0]), row.signs) then
        return ("y%d[%d] is %.17g, wanted %.17g"):format(i, j - 1, g, w)
      end
      local close = math.abs(value - w) <= 1e-12 * math.abs(w) + truth.error[j - 1]
      if not (same(value, w) or close) then return ("the oracle has %.17g at y%d[%d], wanted %.17g"):format(value, i, j - 1, w) end
    end
  end
end

local function judge(row, dtype)
  local t = make(row, dtype)
  local oracle, why, status = t:oracle()
  if row.fails then
    if oracle or status ~= "EINDEX" or not why:find(row.op, 1, true) then return "oracle: " .. tostring(why) end
    local results
    results, why, status = t:guarded(true)
    local named = why and why:find(row.op, 1, true) and why:find('"' .. row.fails .. '"', 1, true)
    return (results or status ~= "EINDEX" or not named) and "kernel: " .. tostring(why) or nil
  end
  if not oracle then return why end
  for _, at_end in ipairs { false, true } do
    local results, message = t:guarded(at_end)
    if not results then return message end
    local problem = t:judge(oracle, results) or differs(row, t, oracle, results)
    if problem then return problem end
  end
end

describe("ops", function()
  it("have hand-picked cases, all of them", function()
    local seen = { param = true, buffer = true } -- leaves like input: catalogue_spec.lua
    for _, row in ipairs(cases) do seen[row.op] = true end
    for op in pairs(native.opinfo) do assert.truthy(seen[op], op .. " has no case") end
  end)

  it(("do as their meaning says on %d cases"):format(#cases), function()
    local failures, count = {}, 0
    for _, row in ipairs(cases) do
      for _, dtype in ipairs { "f32", "f64" } do
        if dtype == "f32" or not row.only and (row.leaves .. row.nodes):find "f32" then
          count = count + 1
          local ok, problem = pcall(judge, row, dtype)
          if not ok or problem then failures[#failures + 1] = ("%s (%s, %s): %s"):format(row.op, row.what, dtype, tostring(problem)) end
        end
      end
      collectgarbage()
    end
    print(("op_cases 0 %d %d 2_alignments"):format(count, #failures))
    assert.same({}, failures)
  end)

  it("report errors in ulps even where squares overflow", function()
    local t, sum = assert(one.compile('%0 = input "x" f64[300]\n%1 = exp %0\noutput "y" %1\n')), validate.new_sum()
    t:give(function(_, i) return 650.1 + i / 6 end)
    assert.is_nil(t:judge(assert(t:oracle()), assert(t:run()), sum))
    assert.is_true(sum.judged == 300 and sum.max_ulp < 16, sum.max_ulp .. " ulps")
  end)

  it("draw the same numbers for one seed and step, others for another", function()
    local t = assert(one.compile('%0 = input "x" f32[2000]\n%1 = dropout %0 p=0.25 stream=3\n%2 = noise %0 std=1 stream=3\n'
      .. 'output "d" %1\noutput "n" %2\n')):give(function() return 1 end)
    local first, dropped = t:run(nil, 7, 1), 0
    assert.is_nil(t:judge(assert(t:oracle(7, 1)), first))
    for _, name in ipairs { "output d", "output n" } do
      assert.equal(first[name]:raw(), t:run(nil, 7, 1)[name]:raw())
      assert.not_equal(first[name]:raw(), t:run(nil, 8, 1)[name]:raw())
      assert.not_equal(first[name]:raw(), t:run(nil, 7, 2)[name]:raw())
    end
    for i = 0, 1999 do dropped = dropped + (first["output d"].data[i] == 0 and 1 or 0) end
    assert.is_true(dropped > 400 and dropped < 600, dropped .. " of 2000 dropped at p = 0.25") -- 5 sigma is 97
  end)
end)

-- name, symbols, graph text; leaves x are spread over (-1, 1), i are indices below 97, m is a sparse mask.
local BIG = {
  { "pointwise over tiles", { n = 50001 }, "%0 = input \"x\" f32[n]\n%1 = exp %0\n%2 = mul %1 %0\noutput \"y\" %2" },
  { "broadcast and transposed reads", { n = 20011 }, [[%0 = input "x" f32[n, 3]
%1 = input "z" f32[n, 1]
%2 = mul %1 %0
%3 = permute %2 perm=1,0
%4 = exp %3
output "y" %4
output "z" %2]] },
  { "a transposition kept by reshape", { m = 97, n = 401 }, [[%0 = input "x" f32[n, m]
%1 = permute %0 perm=1,0
%2 = reshape %1 shape=[m*n]
output "y" %2]] },
  { "casts over pieces", { n = 33333 }, [[%0 = input "x" f32[n]
%1 = scale %0 mul=100
%2 = cast %1 to=i32
%3 = cast %2 to=f32
%4 = sub %1 %3
output "y" %4
output "i" %2]] },
  { "convolution rows of several pieces", { w = 1301 }, [[%0 = input "x" f32[2, 4, 3, w]
%1 = param "k" f32[4, 2, 3, 5] init=ones
%2 = conv2d %0 %1 pad=1,2 groups=2
%3 = relu %2
output "y" %3
output "z" %2]] },
  { "strided, dilated, grouped convolution", { w = 4999 }, [[%0 = input "x" f32[2, 4, w]
%1 = param "k" f32[6, 2, 3] init=ones
%2 = conv1d %0 %1 stride=7 pad=5 dilation=4 groups=2
output "y" %2]] },
  { "convolution of padded planes as one flat run", { n = 2, h = 19, w = 13 }, [[%0 = input "x" f32[n, 5, h, w]
%1 = input "k" f32[17, 5, 3, 3]
%2 = input "b" f32[17]
%3 = conv2d %0 %1 %2 pad=1,1
%4 = sigmoid %3
%5 = cast %4 to=f64
output "y" %5]] },
  { "convolution of even and odd rows and columns", { n = 3, h = 23, w = 37 }, [[%0 = input "x" f32[n, 3, h, w]
%1 = input "k" f32[15, 3, 7, 7]
%2 = conv2d %0 %1 stride=2,2 pad=3,3
%3 = input "l" f32[40, 15, 1, 1]
%4 = conv2d %2 %3 stride=2,2
output "y" %2
output "z" %4]] },
  { "convolution of views, in place and gathered", { h = 21, w = 34 }, [[%0 = input "x" f32[2, h, w, 6]
%1 = permute %0 perm=0,3,1,2
%2 = input "k" f32[7, 6, 2, 3]
%3 = conv2d %1 %2 dilation=2,1
%4 = slice %3 axis=3 start=[1] stop=[w-3]
%5 = input "l" f32[9, 7, 3, 2]
%6 = conv2d %4 %5
output "y" %6]] },
  { "pointwise convolution of long planes", { h = 33, w = 41 }, [[%0 = input "x" f32[2, 12, h, w]
%1 = input "k" f32[30, 6, 1, 1]
%2 = input "b" f32[30]
%3 = conv2d %0 %1 %2 groups=2
%4 = relu %3
output "y" %4]] },
  { "depthwise convolutions", { h = 35, w = 67 }, [[%0 = input "x" f32[2, 11, h, w]
%1 = input "k" f32[11, 1, 3, 3]
%2 = conv2d %0 %1 pad=1,1 groups=11
%3 = input "l" f32[11, 1, 7, 7]
%4 = input "b" f32[11]
%5 = conv2d %2 %3 %4 pad=3,3 groups=11
%6 = conv2d %5 %1 pad=1,1 stride=2,2 groups=11
%7 = tanh %6
output "y" %7]] },
  { "convolution with lanes along channels, any width", { n = 2, h = 21, w = 233, v = 9 }, [[%0 = input "x" f32[n, 16, h, w]
%1 = input "k" f32[31, 16, 3, 3]
%2 = conv2d %0 %1 pad=1,1
%3 = relu %2
%4 = input "z" f32[n, 32, v, v]
%5 = input "l" f32[64, 16, 5, 3]
%6 = input "b" f32[64]
%7 = conv2d %4 %5 %6 stride=2,2 pad=4,3 dilation=2,1 groups=2
%8 = input "m" f32[47, 64, 2, 2]
%9 = conv2d %7 %8
output "y" %3
output "z" %9]] },
  { "depthwise convolutions with lanes along channels", { n = 2, h = 23, w = 61 }, [[%0 = input "x" f32[n, 31, h, w]
%1 = input "k" f32[31, 1, 5, 3]
%2 = conv2d %0 %1 stride=2,2 pad=2,5 groups=31
%3 = input "z" f32[n, 32, h, 7]
%4 = input "l" f32[32, 1, 7, 7]
%5 = input "b" f32[32]
%6 = conv2d %3 %4 %5 pad=3,3 groups=32
output "y" %2
output "z" %6]] },
  { "contraction of several column chunks", { n = 5 }, [[%0 = input "x" f32[n, 37]
%1 = param "w" f32[613, 37] init=ones
%2 = linear %0 %1
%3 = gelu %2
%4 = matmul %0 %3 ta=1
output "y" %4]] },
  { "a long contraction", { n = 30011 }, "%0 = input \"x\" f32[2, n]\n%1 = matmul %0 %0 tb=1\noutput \"y\" %1" },
  { "attention over many pieces of keys", { s = 197 }, [[%0 = input "x" f32[2, s, 9]
%1 = input "m" bool[s, s]
%2 = sdpa %0 %0 %0 %1 causal=1
%3 = sdpa %0 %0 %0
output "y" %2
output "z" %3]] },
  { "attention of permuted heads under every kind of mask", { s = 149 }, [[%0 = input "x" f32[2, s, 120]
%1 = reshape %0 shape=[2, s, 3, 40]
%2 = permute %1 perm=0,2,1,3
%3 = slice %2 axis=3 start=[1] stop=[40] step=2
%4 = input "w" f32[s, s]
%5 = input "v" f32[1, s]
%6 = input "m" bool[s]
%7 = permute %4 perm=1,0
%8 = sdpa %2 %2 %3 %4
%9 = sdpa %2 %2 %2 %7 scale=-0.5
%10 = sdpa %3 %3 %2 %5 causal=1
%11 = sdpa %2 %2 %2 %6
%12 = neg %11
output "a" %8
output "b" %9
output "c" %10
output "d" %12]] },
  { "attention stored in the order of a permute", { s = 149, h = 3 }, [[%0 = input "x" f32[h, 2, s, 19]
%1 = sdpa %0 %0 %0 causal=1
%2 = permute %1 perm=2,0,1,3
%3 = reshape %2 shape=[s*h*2, 19]
%4 = sdpa %0 %0 %0 scale=0.5
%5 = permute %4 perm=1,0,2,3
output "y" %3
output "z" %5]] },
  { "topk of a few, lanes along either axis", { n = 1003 }, [[%0 = input "x" f32[n, 67]
%1 = topk %0 k=5
%2 = topk_index %0 k=5
%3 = topk %0 k=8 axis=0
%4 = topk_index %0 k=3 axis=0
output "a" %1
output "b" %2
output "c" %3
output "d" %4]] },
  { "one index for a row: gather and scatter", { n = 1777 }, [[%0 = input "x" f32[97, 131]
%1 = input "i" i64[n, 1]
%2 = expand %1 shape=[n, 131]
%3 = gather %0 %2 axis=0
%4 = scatter_add %0 %2 %3 axis=0
%5 = permute %0 perm=1,0
%6 = permute %2 perm=1,0
%7 = gather %5 %6 axis=1
output "y" %3
output "z" %4
output "w" %7]] },
  { "topk of many", { n = 5003 }, [[%0 = input "x" f32[2, n]
%1 = topk %0 k=500
%2 = topk_index %0 k=500
output "y" %1
output "i" %2]] },
  { "reductions of 100,003 rows", { n = 100003 }, [[%0 = input "x" f32[n, 2]
%1 = reduce_sum %0 axes=0
%2 = reduce_var %0 axes=0,1
%3 = reduce_max %0 axes=0
%4 = reduce_mean %0 axes=0,1 keepdim=1
output "a" %1
output "b" %2
output "c" %3
output "d" %4]] },
  { "norms over long rows and columns", { n = 5003 }, [[%0 = input "x" f32[2, n, 3]
%1 = softmax %0 axis=1
%2 = log_softmax %0 axis=1
%3 = reshape %0 shape=[1, 2, n*3]
%4 = group_norm %3 groups=2
%5 = softmax %3
output "a" %1
output "b" %2
output "c" %4
output "d" %5]] },
  { "reductions in pieces of rows and of columns", { n = 5003 }, [[%0 = input "x" f32[n, 70]
%1 = relu %0
%2 = reduce_var %1 axes=0 correction=1
%3 = reduce_mean %0 axes=0
%4 = neg %0
%5 = reduce_max %4 axes=0,1
%6 = input "z" f64[3, n, 5]
%7 = reduce_var %6 axes=1,2
%8 = sqrt %7
%9 = reshape %0 shape=[2*n*35]
%10 = reduce_var %9 axes=0
output "a" %2
output "b" %3
output "c" %5
output "d" %8
output "e" %10]] },
  { "rows side by side, work in front and behind", { n = 37, w = 301 }, [[%0 = input "x" f32[2, n, w]
%1 = input "g" f32[w]
%2 = mul %0 %1
%3 = softmax %2 axis=1
%4 = add %3 %0
%5 = permute %0 perm=0,2,1
%6 = log_softmax %5 axis=1
%7 = input "z" f64[n, 3, w]
%8 = softmax %7 axis=0
%9 = silu %0
%10 = softmax %9 axis=1
output "c" %10
output "y" %3
output "z" %4
output "a" %6
output "b" %8]] },
  { "norms of rows with work in front and behind", { n = 301 }, [[%0 = input "x" f32[3, n, 200]
%1 = input "g" f32[200]
%2 = input "h" f32[3, 1, 1]
%3 = mul %0 %1
%4 = layer_norm %3 %1 %1 dims=1
%5 = add %4 %0
%6 = mul %5 %2
%7 = layer_norm %0 dims=2
%8 = rms_norm %0 %1
%9 = tanh %8
%10 = input "z" f64[n, 7]
%11 = softmax %10
%12 = gelu %0
%13 = layer_norm %12
%14 = tanh %0
%15 = softmax %14
%16 = mul %15 %1
%17 = exp %10
%18 = rms_norm %17
output "c" %13
output "d" %16
output "e" %18
output "y" %6
output "z" %7
output "a" %9
output "b" %11]] },
  { "transposes with and without edges", { h = 83, w = 197 }, [[%0 = input "x" f32[3, h, w]
%1 = permute %0 perm=0,2,1
%2 = input "g" f32[w, 1]
%3 = input "o" f32[h]
%4 = add %1 %2
%5 = mul %4 %3
%6 = input "z" f64[2, 5, h, 64]
%7 = permute %6 perm=3,0,2,1
%8 = permute %6 perm=0,2,3,1
%9 = input "s" f32[17, 16, 3]
%10 = permute %9 perm=2,1,0
%11 = neg %10
%12 = input "i" i64[h, w]
%13 = permute %12 perm=1,0
output "b2" %13
output "y" %5
output "z" %7
output "a" %8
output "b" %11]] },
  { "random numbers of many vectors", { n = 1003 }, [[%0 = input "x" f32[n, 70]
%1 = dropout %0 p=0.3 stream=7
%2 = noise %0 std=0.5 stream=8
%3 = softmax %0
%4 = dropout %3 p=0.1 stream=9
%5 = input "z" f64[n, 5]
%6 = dropout %5 p=0.5 stream=10
%7 = noise %5 std=2 stream=11
output "y" %1
output "z" %2
output "a" %4
output "b" %6
output "c" %7]] },
  { "casts of many vectors", { n = 3001 }, [[%0 = input "x" f32[n, 3]
%1 = cast %0 to=i32
%2 = cast %1 to=f32
%3 = permute %1 perm=1,0
%4 = cast %3 to=f32
output "y" %1
output "z" %2
output "a" %4]] },
  { "indices by the thousand", { n = 1777 }, [[%0 = input "x" f32[97, 131]
%1 = input "i" i32[n]
%2 = embedding %0 %1
%3 = cross_entropy %2 %1 ignore=3
output "y" %2
output "z" %3]] },
  { "gather and scatter over tiles", { n = 3001 }, [[%0 = input "x" f32[97, 33]
%1 = input "i" i64[n, 33]
%2 = gather %0 %1 axis=0
%3 = scatter_add %0 %1 %2 axis=0
%4 = relu %3
output "y" %4]] },
  { "pooling rows of several pieces", { w = 1301 }, [[%0 = input "x" f32[1, 2, 5, w]
%1 = max_pool2d %0 kernel=3,2 stride=1,1 pad=1,1
%2 = avg_pool2d %0 kernel=2,3
%3 = adaptive_avg_pool2d %0 out=2,1000
output "y" %1
output "z" %2
output "a" %3]] },
  { "pooling of many planes, windows of every kind", { h = 39, w = 70 }, [[%0 = input "x" f32[2, 19, h, w]
%1 = max_pool2d %0 kernel=3,3 stride=2,2 pad=1,1
%2 = avg_pool2d %0 kernel=5,5 stride=1,1 pad=2,2
%3 = max_pool2d %0 kernel=13,13 stride=3,3 pad=6,6
%4 = adaptive_avg_pool2d %0 out=1,1
%5 = adaptive_avg_pool2d %0 out=7,5
%6 = max_pool2d %0 kernel=2,2
%7 = avg_pool2d %0 kernel=3,2 stride=1,2
output "f" %6
output "g" %7
output "a" %1
output "b" %2
output "c" %3
output "d" %4
output "e" %5]] },
  { "rotation over chunks of pairs", { t = 301 }, "%0 = input \"x\" f32[2, t, 300]\n%1 = rope %0\n%2 = abs %1\noutput \"y\" %2" },
  { "eight pieces, two of them empty", { t = 5003 }, [[%0 = input "x" f32[3, t]
%1 = input "z" f32[3, 0]
%2 = concat %0 %1 %0 %0 %1 %0 %0 %0 axis=1
%3 = abs %2
output "y" %3]] },
  { "views of views of views", { t = 7777 }, [[%0 = input "x" f32[3, t]
%1 = slice %0 axis=1 start=[2] stop=[t] step=3
%2 = permute %1 perm=1,0
%3 = slice %2 axis=0 start=[1] stop=[t//3] step=2
%4 = expand %3 shape=[2, t//6, 3]
%5 = reshape %4 shape=[2*(t//6)*3]
%6 = reduce_sum %4 axes=1
output "y" %5
output "z" %6]] },
  { "a long chain link by link, of a view and of a broadcast row", { n = 2053 }, [[%0 = input "x" f32[n, 7]
%1 = permute %0 perm=1,0
%2 = tanh %1
%3 = sigmoid %2
%4 = gelu %3
%5 = silu %4
%6 = input "z" f32[1, 7]
%7 = expand %6 shape=[n, 7]
%8 = log_softmax %0 axis=1
%9 = gelu %7
%10 = tanh %9
%11 = sigmoid %10
output "y" %5
output "w" %11
output "v" %8]] },
  { "outputs that are inputs and each other", { n = 5 }, [[%0 = input "x" f32[n]
%1 = exp %0
%2 = reshape %1 shape=[n, 1]
%3 = permute %2 perm=1,0
output "a" %0
output "b" %0
output "c" %1
output "d" %2
output "e" %3
output "f" %1]] },
  { "buffers read, exchanged and returned", { n = 5 }, [[%0 = input "x" f32[n]
%1 = buffer "b" f32[5] init=zeros
%2 = buffer "c" f32[5] init=ones
%3 = add %1 %2
update "b" %2
update "c" %1
output "y" %3
output "z" %1]] },
}

-- A chain of `count` nodes that all read x again, 30 inputs wide: over the limits of one group in nodes and operands.
local function wide_chain(count)
  local lines = {}
  for i = 0, 29 do lines[#lines + 1] = ('%%%d = input "x%d" f32[n, 7]'):format(i, i) end
  local last = 0
  for i = 30, 30 + count - 1 do
    local op = ({ "add", "mul", "sub", "maximum" })[i % 4 + 1]
    lines[#lines + 1] = ("%%%d = %s %%%d %%%d"):format(i, op, last, i % 30)
    last = i
    if i % 20 == 0 then lines[#lines + 1] = ('output "y%d" %%%d'):format(i, i) end
  end
  lines[#lines + 1] = ('output "last" %%%d'):format(last)
  return table.concat(lines, "\n")
end
BIG[#BIG + 1] = { "a chain of 90 nodes over 30 inputs", { n = 301 }, wide_chain(90) }

local function element(name, i)
  if name:sub(1, 1) == "i" then return i * 37 % 97 end
  if name == "m" then return i * 7919 % 13 < 2 and 1 or 0 end
  return ((i + #name * 3) * 7919 + 13) % 1009 / 505 - 1
end

describe("large shapes", function()
  local pools = {}
  setup(function()
    for threads = 1, 4 do
      local out = native.new "es_pool *[1]"
      assert.equal(0, C.es_pool_new(threads, out, native.fresh()))
      pools[threads] = native.gc(out[0], C.es_pool_release)
    end
  end)

  for _, big in ipairs(BIG) do
    it(big[1], function()
      local head = {}
      for name, v in pairs(big[2]) do head[#head + 1] = ("symbol %s %d 1000000\n"):format(name, v / 2) end
      table.sort(head)
      local t = assert(one.compile(table.concat(head) .. big[3] .. "\n", big[2])):give(element)
      local sum = validate.new_sum()
      local results = assert(t:guarded(true))
      assert.is_nil(t:judge(assert(t:oracle()), results, sum))
      assert.is_true(sum.judged > 0.9 * sum.elements)
      for threads, pool in ipairs(pools) do
        for name, again in pairs(assert(t:run(pool))) do
          assert.is_true(results[name]:raw() == again:raw(), name .. " differs with threads: " .. threads)
        end
      end
      collectgarbage()
    end)
  end

  it("softmax, log-softmax and norms of rows about as long as registers hold, on every instruction set", function()
    local count = 0
    for _, isa in ipairs(require("support.judge").isas) do
      for _, dtype in ipairs { "f32", "f64" } do
        for _, row in ipairs { 15, 16, 17, 19, 20, 21, 32, 33, 39, 40, 63, 64, 65, 79, 80, 81 } do
          local text = ([[
symbol n 0 100
%%0 = input "x" f32[n, %d]
%%1 = softmax %%0 axis=1
%%2 = log_softmax %%0 axis=1
%%3 = scale %%1 mul=2
%%4 = layer_norm %%0 dims=1 eps=1e-05
output "y" %%3
output "z" %%2
output "w" %%4
]]):format(row):gsub("f32", dtype)
          local t = assert(one.compile(text, { n = 3 }, { isa = isa, mode = "eval" })):give(element)
          assert.is_nil(t:judge(assert(t:oracle()), assert(t:guarded(row % 2 == 1))), isa .. " " .. dtype .. " " .. row)
          count = count + 1
        end
      end
    end
    print(("rows_about_registers 0 %d 0 3_instruction_sets"):format(count))
  end)
end)

-- What stores its result in the order of a permute, beside twins that do not: heads merged, axes exchanged, masks, results read
-- by pointwise work of the same shape, made of parameters alone; some of the sizes are 0 and 1.
local PERMUTED = [[
symbol b 0 7
symbol h 0 5
symbol t 0 70
%%0 = input "x" f32[b, h, t, %d]
%%1 = input "z" f32[b, h, t, %d]
%%2 = input "m" bool[t, t]
%%3 = sdpa %%0 %%0 %%0 causal=1
%%4 = permute %%3 perm=0,2,1,3
%%5 = reshape %%4 shape=[b, t, h*%d]
%%6 = sdpa %%1 %%1 %%1 causal=1
%%7 = sdpa %%1 %%0 %%0 %%2
%%8 = permute %%7 perm=2,1,0,3
%%9 = tanh %%8
%%10 = input "w" f32[b, 3, 3, %d]
%%11 = sdpa %%10 %%10 %%10
%%12 = permute %%11 perm=0,2,1,3
%%13 = add %%12 %%10
%%14 = param "p" f32[3, 5, %d] init=normal(0, 1)
%%15 = sdpa %%14 %%14 %%14
%%16 = permute %%15 perm=1,0,2
%%17 = reshape %%16 shape=[5, 3*%d]
%%18 = sdpa %%0 %%1 %%1
%%19 = permute %%18 perm=1,0,2,3
output "a" %%5
output "b" %%6
output "c" %%9
output "d" %%13
output "e" %%17
output "f" %%19
]]

describe("attention stored in the order of a permute", function()
  for _, isa in ipairs(require("support.judge").isas) do
    it("is right at odd widths on " .. isa, function()
      for _, dtype in ipairs { "f32", "f64" } do
        for _, width in ipairs { 1, 7, 16, 35 } do
          local t = assert(one.compile((PERMUTED:gsub("%%d", width):gsub("%%%%", "%%"):gsub("f32", dtype)), {}, { isa = isa, mode = "eval" }))
          local strided = 0
          for _, group in ipairs(t.kernel.groups.groups) do strided = strided + (group.layout and 1 or 0) end
          assert.equal(4, strided) -- tanh of %7 goes in front of its permute and is copied
          local c = validate.certify(t.kernel, { shapes = 4, seed = width, torch = false })
          assert.is_true(c.passed, ("%s, width %d: %s"):format(dtype, width, tostring(c.failure)))
        end
      end
    end)
  end
end)
