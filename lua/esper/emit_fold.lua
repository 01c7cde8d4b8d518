--- Statistics over the reduced axes of a space, and what is computed from them, in one vector block for many kept
-- positions. Used by the recipes reduce and norm.
--
--   fold.run(k, { space=, kept={axes}, reduced={axes}, sideways=bool,      axes count from 1
--     start=, n=           kept positions, row-major over the kept axes (C expressions)
--     terms=               how many elements one position folds: a dim, or a C expression
--     piece={ start=, n= } the part of the reduced axes' first collapsed extent that is meant (C expressions); nil: all of it
--     plan=, front={ids}   a chain's plan (emit_chain.lua) whose nodes begin with `front`, computed at every element
--     inputs={ input, ... }   the plan's inputs that give an element's value x: { node= } or { source= }; x is a list when
--                          there are several
--     stats={ stat, ... }  in order: { kind = of emit_fold_kinds.lua, value = fn(b, x, earlier...) -> what is folded,
--                          finish = fn(b, folded, count) -> the statistic, or nil; keep = true: the write gets this value as x }
--     write=fn(stats, x)   evaluates the rest of the plan: sets what its anchor computes; see `nodes`, `stores`
--     far=                 a C flag, or nil: outputs go past the caches (emit_stream.lua); rows then lie on the bounds of vectors
--     nodes=, stores=      ids of the plan behind `front`, and which of them are written to the outputs, row-major
--     into={ into, ... }}) without write: { stat = number, at = char * of an array over the positions, minus= }; minus:
--                          position of its first element (C expression), nil: 0
-- Vectors run along the reduced axes of one kept position, or sideways: across neighbouring kept positions.
-- Invariant: an element is read in every pass over its row before it is written; the order of a sum depends on extents
-- and lanes alone.

local amount = require "esper.emit_amount"
local block = require "esper.emit_fold_block"
local chain = require "esper.emit_chain"
local stream = require "esper.emit_stream"

local M = {}
local pick = block.pick
M.pick = pick

-- Bytes: a row that is kept in registers or just written, one that the stack has room for, what addresses are compared by.
local SHORT, ROOM, PAGE, LINE = 1024, 32 * 1024, 4096, 64

local function walk_operands(k, spec)
  local list, own = {}, k:contiguous(spec.space)
  for i in ipairs(spec.plan.sources) do list[i] = chain.operand(k, spec.plan, i) end
  if spec.piece then
    local _, steps = M.collapsed(k, spec.plan, spec.space, spec.reduced)
    for i, operand in ipairs(list) do
      operand.at = ("(%s + %s * %s * %dL)"):format(operand.at, k:atom(spec.piece.start), k:dim(steps[i][1]), operand.bytes)
    end
  end
  for _, id in ipairs(spec.stores or {}) do
    list[#list + 1] = { at = k:write(id), strides = own, bytes = k:bytes(k.graph:dtype(id)), written = true }
  end
  if next(spec.plan.random) then list[#list + 1] = { index = true, strides = own } end
  for _, into in ipairs(spec.into or {}) do
    list[#list + 1] = { at = into.at, strides = M.over_kept(k, spec.space, spec.kept), minus = into.minus, written = true,
                        bytes = k:bytes(k.graph:dtype(k.group.anchor)) }
  end
  return list
end

-- A row on the stack for the values that a fold keeps from pass to pass; nil when it is short enough for registers, too long
-- or of unknown length. It lies half a page off the source, for a load waits where the last 12 bits of its address are
-- those of a store before it.
local function home_operand(k, spec, source)
  local axes, dtype, strides = pick(spec.space, spec.reduced), k.graph:dtype(k.group.anchor), {}
  local row, bytes = k.dims:value(k:product(axes)), k:bytes(dtype)
  if spec.sideways or spec.piece or not row or row * bytes < SHORT or row * bytes > ROOM then return nil end
  for axis = 1, #spec.space do strides[axis] = k.dims:const(0) end
  for i, stride in ipairs(k:contiguous(axes)) do strides[spec.reduced[i]] = stride end
  local buffer, at = k:buffer(dtype, row + PAGE / bytes), k:name "home"
  k:line("char *const %s = (char *)%s + (((long)%s - (long)%s + %dL) & %dL);", at, buffer, source, buffer, PAGE / 2, PAGE - LINE)
  return { at = at, strides = strides, bytes = bytes, written = true }
end

function M.run(k, spec)
  local list, kept, far = walk_operands(k, spec), {}, spec.far
  local keeps, stash = block.keeps(k, spec)
  if keeps or stash then
    local home = home_operand(k, spec, list[1].at)
    list.home = home and #list + 1
    list[#list + 1] = home
    far = home and far
  end
  for i, operand in ipairs(list) do
    kept[i] = { at = operand.at, offset = operand.offset, minus = operand.minus, bytes = operand.bytes, index = operand.index,
                strides = pick(operand.strides, spec.kept) }
  end
  k:walk{ extents = pick(spec.space, spec.kept), start = spec.start, n = spec.n, operands = kept, body = function(w)
    stream.either(k, far, function(past)
      local words
      local name = k:block(function(b)
        words = block.build(k, b, spec, w, list, function(s) return M.count(s, spec.terms) end, past)
      end)
      k:call(name, words)
    end)
  end }
end

--- A sum divided by `count` (a vector from M.count): by its reciprocal where that is known.
function M.mean(b, sum, count)
  return count.known and b:mul(sum, b:splat(1 / count.known)) or b:div(sum, count.vector)
end

--- A number of terms (dim or C expression) as { known = number or nil, vector = register }; made outside loops.
function M.count(s, terms)
  local count = type(terms) == "string" and terms or amount.of(s.k, terms)
  if type(count) == "number" then return { known = count, vector = s.b:splat(count) } end
  return { vector = s.b:cvt_f(s.b:splatg(s:g(count))) }
end

--- Extents and strides of the plan's sources over some axes of the space, adjacent axes merged where all allow it.
function M.collapsed(k, plan, space, axes)
  local lists = {}
  for i, source in ipairs(plan.sources) do lists[i] = pick(source.strides, axes) end
  return k:collapse(pick(space, axes), lists)
end

--- Strides, in `space`, of an array over the kept positions.
function M.over_kept(k, space, kept)
  local strides, packed = {}, k:contiguous(pick(space, kept))
  for axis = 1, #space do strides[axis] = k.dims:const(0) end
  for i, axis in ipairs(kept) do strides[axis] = packed[i] end
  return strides
end

return M
