--- Contractions: linear and matmul, any strides, broadcast batch axes, bias and pointwise epilogue fused.
--
-- out[row, n] = bias[n] + sum_k a[row, k] b[row, k, n]; a row is one position of all output axes but the last (for
-- linear b does not depend on the row). A tile is one row and up to CHUNK columns; its raw sums go to a stack buffer, or
-- straight to the output when the group stores the anchor, and the epilogue finishes them while they are in cache.
-- Two inner loops, chosen by which axis of b is contiguous:
--   dot     lanes run along k (b's k stride is 1), WIDE columns at a time share the loads of a
--   columns lanes run along n, one broadcast element of a per step

local CHUNK = 256
local WIDE = 4

-- The operands of the anchor in one form: row axes (extents, strides of a and b), n and k strides, all dims.
local function operands(k, group)
  local D, id = k.dims, group.anchor
  local args = group.args[id]
  local a, b = args[1], args[2]
  local out = k.graph:shape(id)
  local zero = D:const(0)
  local rows, sa, sb = {}, {}, {}
  local linear = k.graph:op(id) == "linear"
  local ta = not linear and k.graph:attr(id, "ta") == 1
  local tb = not linear and k.graph:attr(id, "tb") == 1
  local ra, rb = #a.strides, #b.strides
  for axis = 1, #out - 1 do
    rows[axis] = out[axis]
    local from_end = #out - axis + 1 -- 2 is the m axis
    if linear then
      sa[axis], sb[axis] = a.strides[axis], zero
    elseif from_end == 2 then
      sa[axis], sb[axis] = a.strides[ta and ra or ra - 1], zero
    else
      local function batch(arg, rank, input)
        local at = rank - from_end + 1
        local extent = at >= 1 and k.graph:shape(input)[at]
        return extent and extent == out[axis] and arg.strides[at] or zero
      end
      local inputs = k.graph:inputs(id)
      sa[axis], sb[axis] = batch(a, ra, inputs[1]), batch(b, rb, inputs[2])
    end
  end
  local shape_a = k.graph:shape(k.graph:inputs(id)[1])
  return {
    a = a, b = b, bias = args[3], rows = rows, sa = sa, sb = sb, n = out[#out],
    k = ta and shape_a[#shape_a - 1] or shape_a[#shape_a],
    ak = a.strides[ta and ra - 1 or ra],
    bk = linear and b.strides[2] or b.strides[tb and rb or rb - 1],
    bn = linear and b.strides[1] or b.strides[tb and rb - 1 or rb],
  }
end

-- One function `(words) -> out[0 .. columns)`; words: depth, a, a's k step, b, b's k step, b's n step, columns / WIDE,
-- columns % WIDE (dot) or columns (columns form), bias, bias step, out. Steps are in bytes.
local function arguments(b)
  return { depth = b:arg(0), a = b:arg(1), ak = b:arg(2), b = b:arg(3), bk = b:arg(4), bn = b:arg(5),
    wide = b:arg(6), columns = b:arg(7), bias = b:arg(8), bias_step = b:arg(9), out = b:arg(10) }
end

-- `width` columns from here on, then moves b, bias and out past them.
local function dot_columns(b, w, width, has_bias)
  local acc, ptr, a = {}, {}, b:copy(w.a)
  local advance = { { a, step = w.ak } }
  for j = 1, width do
    acc[j] = b:splat(0)
    ptr[j] = b:copy(w.b)
    advance[j + 1] = ptr[j]
    b:g_set(w.b, b:g_add(w.b, w.bn))
  end
  b:each(w.depth, advance, function(mask)
    local x = b:loads(a, w.ak, 0, mask)
    for j = 1, width do b:set(acc[j], b:fma(x, b:load(ptr[j], 0, mask), acc[j])) end
  end)
  for j = 1, width do
    local sum = b:hadd(acc[j])
    if has_bias then
      sum = b:add(sum, b:bcast(w.bias, 0))
      b:g_set(w.bias, b:g_add(w.bias, w.bias_step))
    end
    b:store1(w.out, sum, (j - 1) * b.bytes)
  end
  b:g_set(w.out, b:g_addk(w.out, width * b.bytes))
end

local function dot_block(k, o)
  return function(b)
    local w = arguments(b)
    k:note(b, k.group.anchor)
    b:loop(w.wide, function() dot_columns(b, w, WIDE, o.bias) end)
    b:loop(w.columns, function() dot_columns(b, w, 1, o.bias) end)
  end
end

local function columns_block(k, o)
  return function(b)
    local w = arguments(b)
    k:note(b, k.group.anchor)
    local advance = { w.out, { w.b, step = w.bn } }
    if o.bias then advance[3] = { w.bias, step = w.bias_step } end
    b:each(w.columns, advance, function(mask)
      local acc = b:splat(0)
      if o.bias then b:set(acc, b:loads(w.bias, w.bias_step, 0, mask)) end
      local a, row = b:copy(w.a), b:copy(w.b)
      b:loop(w.depth, function()
        b:set(acc, b:fma(b:bcast(a, 0), b:loads(row, w.bn, 0, mask), acc))
        b:g_set(a, b:g_add(a, w.ak))
        b:g_set(row, b:g_add(row, w.bk))
      end)
      b:store(w.out, acc, 0, mask)
    end)
  end
end

local function emit(k, group)
  local D, o, id = k.dims, operands(k, group), group.anchor
  local dtype = k.graph:dtype(id)
  local bytes = k:bytes(dtype)
  local dot = D:value(o.bk) == 1
  local block = k:block(dot and dot_block(k, o) or columns_block(k, o), dtype)
  local direct = k.stored
  local rows, lists = k:collapse(o.rows, { o.sa, o.sb })
  local chunks = D:ceildiv(o.n, CHUNK)
  k:step { tiles = D:mul(k:product(o.rows), chunks) }
  local raw = not direct and k:buffer(dtype, CHUNK)
  k:tiles(function(t)
    k:line("long row = %s / %s, n0 = %s %% %s * %dL;", t, k:dim(chunks), t, k:dim(chunks), CHUNK)
    k:line("long n = %s - n0 < %dL ? %s - n0 : %dL;", k:dim(o.n), CHUNK, k:dim(o.n), CHUNK)
    local at = k:unravel(rows, "row")
    local function address(arg, strides, n_stride)
      local index = { unpack(at) }
      index[#index + 1] = "n0"
      local all = { unpack(strides) }
      all[#all + 1] = n_stride
      return ("%s + (%s) * %dL"):format(k:read(arg), k:offset(arg.offset, all, index), bytes)
    end
    local function step(d) return ("%s * %dL"):format(k:dim(d), bytes) end
    local out = direct and ("%s + (row * %s + n0) * %dL"):format(k:write(id), k:dim(o.n), bytes) or raw
    local bias = o.bias
    k:call(block, {
      k:dim(o.k), address(o.a, lists[1], D:const(0)), step(o.ak), address(o.b, lists[2], o.bn), step(o.bk), step(o.bn),
      dot and ("n / %dL"):format(WIDE) or "0", dot and ("n %% %dL"):format(WIDE) or "n",
      bias and k:at(bias, { "n0" }) or "0", bias and step(bias.strides[1]) or "0", out,
    })
    k:epilogue { start = ("row * %s + n0"):format(k:dim(o.n)), n = "n", from = raw or nil }
  end)
end

return { name = "contract", emit = emit }
