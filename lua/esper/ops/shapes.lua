--- Sugar that renames, cuts and joins axes, and reductions under their short names. Part of ops.lua.
--   x:reshape{ "batch", -1, 64 }  one -1   x:flatten(from = 0, to = -1)   x:transpose(a, b)   x:unsqueeze(axis)   x:squeeze(axis)
--   x:slice(axis, start, stop = extent, step = 1)   start and stop may be negative: from the end
--   x:split(n or { sizes }, axis = 0) -> parts   x:chunk(n, axis = 0) -> parts, the last may be shorter
--   g.concat({ a, b, ... }, axis)   x:expand{ ... }   g.full(shape, number, dtype = float)   g.scalar(number, dtype = float)
--   x:sum(axes) x:mean(axes) x:max(axes) x:var(axes), keepdim and (var) correction by name; g.topk(x, k, axis) -> values, positions

local builder = require "esper.ops.builder"
local value = require "esper.ops.value"
local describe, fail = value.describe, builder.fail

local function default(v, d) if v == nil then return d end return v end

local function whole(v, least, what)
  if v == value.poison then builder.silent() end
  if type(v) ~= "number" or v % 1 ~= 0 or v < least then
    fail("%s is %s, wanted an integer of at least %d", what, describe(v), least)
  end
  return v
end

local function product(b, dims)
  local p = b.D:const(1)
  for _, d in ipairs(dims) do p = b.D:mul(p, d) end
  return p
end

-- Position along an axis; negative numbers count from the end.
local function position(b, v, extent, what)
  if type(v) == "number" and v % 1 == 0 and v < 0 then return b.D:add(extent, b.D:const(v)) end
  return b:dim(v, what)
end

return function(plain)
  local M = { many = { "split", "chunk", "topk" } }

  -- The extent that -1 stands for.
  local function inferred(b, id, dims, text)
    local total, rest = product(b, b.graph:shape(id)), product(b, dims)
    local known = b.D:value(rest)
    if not known then -- symbolic rest: shared leading factors cancel when the quotient multiplies back
      local quotient = b:cancel(b.graph:shape(id), dims)
      if quotient then return quotient end
      fail("-1 in %s cannot be told: %s / %s is not a whole dimension", text, b.D:text(total), b.D:text(rest))
    end
    if known == 0 then fail("-1 in %s is ambiguous: the other extents multiply to 0", text) end
    local quotient = b.D:floordiv(total, known)
    if b.D:mul(quotient, rest) ~= total then
      fail("%s does not fit %s: %s is not divisible by %d", text, b:describe(id), b.D:text(total), known)
    end
    return quotient
  end

  --- Quotient of two products of extents, equal factors struck out; nil when a symbol is left below.
  function builder.methods:cancel(above, below)
    local left = {}
    for i, d in ipairs(above) do left[i] = d end
    local rest = 1
    for _, d in ipairs(below) do
      local at
      for i, e in ipairs(left) do if e == d then at = i break end end
      if at then table.remove(left, at)
      elseif self.D:value(d) then rest = rest * self.D:value(d)
      else return nil end
    end
    if rest == 0 then return nil end
    local total = product(self, left)
    local quotient = self.D:floordiv(total, rest)
    if self.D:mul(quotient, self.D:const(rest)) == total then return quotient end
  end

  function M.reshape(b, x, shape, ...)
    local id = b:id(x)
    if type(shape) ~= "table" then return plain.reshape(b, x, shape, ...) end
    local list, hole = {}, nil
    for i = 1, #shape do
      if shape[i] == -1 then
        if hole then fail("shape has -1 twice") end
        hole = i
      end
      list[i] = shape[i]
    end
    if not hole then return plain.reshape(b, x, shape, ...) end
    table.remove(list, hole)
    local dims = b:shape(list, "shape")
    local extent = inferred(b, id, dims, b:shape_text(dims) .. " with -1")
    table.insert(dims, hole, extent)
    return b:tensor(b:node("reshape", { id }, { shape = dims }))
  end

  function M.flatten(b, x, from, to)
    local id = b:id(x)
    from, to = b:axis(id, default(from, 0)), b:axis(id, default(to, -1))
    if from > to then fail("first axis %d lies behind last axis %d", from, to) end
    local dims, shape = {}, b.graph:shape(id)
    local middle = {}
    for axis, d in ipairs(shape) do
      if axis - 1 >= from and axis - 1 <= to then middle[#middle + 1] = d end
    end
    for axis = 1, from do dims[axis] = shape[axis] end
    dims[from + 1] = product(b, middle)
    for axis = to + 2, #shape do dims[#dims + 1] = shape[axis] end
    return b:tensor(b:node("reshape", { id }, { shape = dims }))
  end

  function M.unsqueeze(b, x, axis)
    local id = b:id(x)
    local shape = b.graph:shape(id)
    local at = whole(axis, -#shape - 1, "axis")
    if at > #shape then fail("axis is %d, wanted at most %d", at, #shape) end
    table.insert(shape, (at < 0 and at + #shape + 1 or at) + 1, b.D:const(1))
    return b:tensor(b:node("reshape", { id }, { shape = shape }))
  end

  function M.squeeze(b, x, axis)
    local id = b:id(x)
    local shape, at = b.graph:shape(id), b:axis(id, axis)
    if b.D:value(shape[at + 1]) ~= 1 then fail("axis %d of %s is not 1", at, b:describe(id)) end
    table.remove(shape, at + 1)
    return b:tensor(b:node("reshape", { id }, { shape = shape }))
  end

  function M.transpose(b, x, a, c)
    local id = b:id(x)
    a, c = b:axis(id, a), b:axis(id, c)
    local perm = {}
    for axis = 0, b.graph:rank(id) - 1 do perm[axis + 1] = axis == a and c or axis == c and a or axis end
    return b:tensor(b:node("permute", { id }, { perm = perm }))
  end

  local function cut(b, id, axis, start, stop, step)
    return b:tensor(b:node("slice", { id }, { axis = axis, start = start, stop = stop, step = step }))
  end

  function M.slice(b, x, axis, start, stop, step)
    local id = b:id(x)
    if type(axis) == "table" then return plain.slice(b, x, axis) end
    axis = b:axis(id, axis)
    local extent = b:extent(id, axis)
    local from = position(b, default(start, 0), extent, "start")
    local to = stop == nil and extent or position(b, stop, extent, "stop")
    return cut(b, id, axis, from, to, whole(default(step, 1), 1, "step"))
  end

  -- Slices of the given sizes (dimension handles), one after another.
  local function pieces(b, id, axis, sizes)
    local parts, at = {}, b.D:const(0)
    for i, size in ipairs(sizes) do
      local stop = b.D:add(at, size)
      parts[i], at = cut(b, id, axis, at, stop, 1), stop
    end
    return unpack(parts)
  end

  function M.split(b, x, how, axis)
    local id = b:id(x)
    axis = b:axis(id, default(axis, 0))
    local extent, sizes = b:extent(id, axis), {}
    if type(how) == "table" then
      if #how == 0 or #how > 64 then fail("%d sizes, wanted 1 to 64", #how) end
      local total = b.D:const(0)
      for i, size in ipairs(how) do
        sizes[i] = b:dim(size, "size " .. i)
        total = b.D:add(total, sizes[i])
      end
      if total ~= extent then
        fail("sizes add up to %s, axis %d of %s is %s", b.D:text(total), axis, b:describe(id), b.D:text(extent))
      end
    else
      local n = whole(how, 1, "number of parts")
      if n > 64 then fail("number of parts is %d, wanted at most 64", n) end
      local size = b.D:floordiv(extent, n)
      if b.D:mul(size, b.D:const(n)) ~= extent then
        fail("axis %d of %s is not divisible by %d; give a list of sizes", axis, b:describe(id), n)
      end
      for i = 1, n do sizes[i] = size end
    end
    return pieces(b, id, axis, sizes)
  end

  function M.chunk(b, x, n, axis)
    local id = b:id(x)
    axis = b:axis(id, default(axis, 0))
    whole(n, 1, "number of parts")
    local total = b.D:value(b:extent(id, axis))
    if not total then return M.split(b, x, n, axis) end
    local size, sizes = math.ceil(total / n), {}
    if total > 0 and math.ceil(total / size) > 64 then fail("more than 64 parts") end
    for at = 0, total - 1, size do sizes[#sizes + 1] = b.D:const(math.min(size, total - at)) end
    return pieces(b, id, axis, sizes)
  end

  function M.concat(b, list, axis, ...)
    if type(list) ~= "table" or type(axis) == "table" then return plain.concat(b, list, axis, ...) end
    if #list == 0 then fail("the list is empty, wanted tensors") end
    if #list > 512 then fail("%d tensors, at most 512 are possible", #list) end
    local ids = {}
    for i = 1, #list do ids[i] = b:id(list[i], "entry " .. i) end
    axis = b:axis(ids[1], default(axis, 0))
    while #ids > 8 do -- one concat takes 8
      local merged = {}
      for i = 1, #ids, 8 do
        local group = {}
        for k = i, math.min(i + 7, #ids) do group[#group + 1] = ids[k] end
        merged[#merged + 1] = #group == 1 and group[1] or b:node("concat", group, { axis = axis })
      end
      ids = merged
    end
    return b:tensor(b:node("concat", ids, { axis = axis }))
  end

  function M.full(b, shape, number, dtype)
    if type(number) ~= "number" then fail("value is %s, wanted a number", describe(number)) end
    local id = b:const(number, (dtype == nil or dtype == "float") and b.dtype or dtype)
    return b:tensor(b:node("expand", { id }, { shape = b:shape(shape) }))
  end

  function M.scalar(b, number, dtype)
    if type(number) ~= "number" then fail("value is %s, wanted a number", describe(number)) end
    return b:tensor(b:const(number, (dtype == nil or dtype == "float") and b.dtype or dtype))
  end

  for short, op in pairs { sum = "reduce_sum", mean = "reduce_mean", max = "reduce_max", var = "reduce_var" } do
    M[short] = function(b, x, axes, ...)
      if type(axes) == "number" then axes = { axes } end
      if axes == nil then return plain[op](b, x, ...) end
      return plain[op](b, x, axes, ...)
    end
    M[op] = M[short]
  end

  function M.topk(b, x, ...) return plain.topk(b, x, ...), plain.topk_index(b, x, ...) end
  return M
end
