--- The kernel writer `k`: what a recipe uses to write the functions of one group. Used by emit.lua,
-- which explains units.
-- Invariant: values, dims and streams are numbered in the step's own order, so the text says
-- nothing about the graph.
--
-- What a recipe sees:
--   k.graph  k.dims (D)  k.isa  k.group   k:lanes(dtype)   k:bytes(dtype)   k.unit
--   k:step{ tiles=dim, label=text, when= }   starts a function (const args *a, long lo, long hi); ends the one before.
--        when: "always", or for work on parameters that a kernel may keep while they are frozen "prepare", "pack", "frozen", "fluid"
--        (es_when in run/plan.h); k:constant(arg) says that an operand is a
--        parameter, or made of parameters alone, in a kernel for inference
--        The recipe loops over its tiles: k:tiles(fn(t)) writes `for (long t = lo; t < hi; t++)`.
--   k:range(t, size, count) -> start, n   C names: tile t, `size` (number) of `count` (dim) elements
--   k:line(fmt, ...)  k:open(fmt, ...)  k:close(tail)   C text, indented; formatted when there are arguments
--   k:name(prefix)    a fresh C name in this function        k:atom(expr)   parenthesised where needed
-- Operands. All are expressions of type `char *`; a base, without offset:
--   k:read(arg)  k:write(id)  k:temp(bytes_dim, kept) -> handle, k:ptr(handle); kept: memory that stays from run to run
--   k:at(arg, { index, ... })  address of one element: base + bytes * (offset + sum index * stride);
--        an index is a C expression (long) or a number; missing ones are 0
--   k:choice(name, candidates) -> one of them: a size or variant the autotuner may set for this group; the first
--        candidate is the default (compute the list from the group, never from the machine)
--   k:dim(d)          C expression (long) of a dimension: a literal or a local; always safe to multiply
--   k:offset(offset, strides, { index, ... })   the element offset alone, as a C expression
--   k:key(stream)     `const unsigned *`         k:fault(arg)   C statement reporting a bad index in operand arg
--   k:buffer(dtype, count) -> name   array on the stack (T name[count]); all buffers of a function together
--        stay under 56 KiB, else an error
--   k:ctype(dtype)    its C type          k:raw(expr, dtype) -> "((T *)expr)"
-- Vector blocks:
--   k:block(fn, dtype, key, isa) -> name   fn(b) builds it; dtype ("f32" "f64" "i32" "i64") defaults to the anchor's. A key
--        stands for all that fn depends on besides the dtype: the unit builds the block once for it. isa: nil, or one that
--        the unit's includes (without a key)
--   k:call(block, { C expressions })   words of the call, each cast to long: pointers, counts, byte strides
--   k:note(b, id)     what follows in the block computes node id (shown by dumps)
-- Dimensions:
--   k:product(dims) -> dim   k:contiguous(shape) -> row-major strides (dims)   k:ceildiv(d, n) -> dim
--   k:collapse(extents, { strides, ... }) -> extents, { strides, ... }   drops extents 1, merges adjacent axes that
--        every stride list walks as one; at least one axis is left
-- Loops (emit_rows.lua):
--   k:unravel(extents, pos) -> C names of the coordinates of linear index `pos` (C expression)
--   k:walk{ extents=, start=, n=, piece=, operands={ { at=, offset=, strides=, bytes=, minus= }, ... },
--           body=fn(w) }
--        visits elements start .. start + n - 1 (C expressions) of a row-major space in runs along its
--        innermost collapsed axis (at most `piece` elements, a number). w.n, w.pos: C names of the run's
--        length and first linear index; w[i] = { ptr = C name of operand i's address, step = its stride
--        along the run (dim, elements) }. minus: C expression subtracted from the element offset.
--        An operand { index=true, offset=, strides= } gives the offset itself.
-- The group's pointwise work (emit_chain.lua):
--   k.stored          true when the anchor itself is an output of the group
--   k:epilogue{ start=, n=, from= }   applies the epilogue to n consecutive elements of the anchor's output,
--        from linear (row-major) index `start`; `from`: char * expression of the raw anchor values,
--        contiguous. Without `from` the recipe has already written them to k:write(anchor) at start (allowed
--        when k.stored). Any start and n are right; one call per output row is cheapest. Stores every output
--        of the group; n <= 0 does nothing. `from` may point to an output of the same dtype at `start`. With `from`
--        there may be `plus`: an operand, with strides over group.space, that is added to the raw values (a bias)
--   k:epilogue_rows{ row=, rows=, column=, n=, from=, from_step=, plus= }   the same for a rectangle of the output:
--        columns column .. column + n - 1 of `rows` rows from row `row` on (a row: one position of all axes but the
--        last); `from` holds them from_step bytes (C expression) apart. One call for all of them where possible
--   k:ending(plus) -> e or nil   the same work by a block of the recipe's own, on vectors in its registers; nil where the
--        chain is too long for that. e:over(row, column, words) -> fn(b), for the rectangle that starts there; it adds words
--        of its own to those of the call, and gives in the block: compute(vectors) -> values and store(values), a row of whole
--        vectors after the other; move(rows, bytes, times), goes elsewhere, bytes (times g) to the right; ask(rows, bytes), has
--        what the next rows need, so many bytes of each, brought near in the meantime
--   k:epilogue_step(temp)   a step that applies the epilogue, if there is one, to the whole output: from a
--        temporary with the raw values, or (nil, allowed when k.stored) from the output itself

local chain = require "esper.emit_chain"
local native = require "esper.native"
local region = require "esper.emit_region"
local rows = require "esper.emit_rows"
local vec = require "esper.vec"

local M = {}

local CTYPE = {
  f32 = "float", f64 = "double", i32 = "int", i64 = "long", u8 = "unsigned char", bool = "unsigned char",
}
local EPILOGUE_CHUNK = 4096 -- elements of a tile of epilogue_step
local STACK_LIMIT = 56 * 1024 -- of one function; the rest of a 64 KiB frame is for spills and locals

local Writer = {}
Writer.__index = Writer

-- ---- text of the current function ----

local INDENT = setmetatable({}, { __index = function(known, depth)
  known[depth] = ("  "):rep(depth)
  return known[depth]
end })

function Writer:line(fmt, ...)
  local text = select("#", ...) > 0 and fmt:format(...) or fmt
  self.body[#self.body + 1] = INDENT[self.depth] .. text
end

function Writer:open(fmt, ...)
  self:line(fmt, ...)
  self.body[#self.body] = self.body[#self.body] .. " {"
  self.depth = self.depth + 1
end

function Writer:close(tail)
  self.depth = self.depth - 1
  self:line("}" .. (tail or ""))
end

function Writer:name(prefix)
  local n = self.names[prefix] or 0
  self.names[prefix] = n + 1
  return prefix .. "_" .. n
end

--- An expression that may stand beside any operator. The same few are asked for again and again.
function Writer:atom(expr)
  local atom = self.unit.atoms[expr]
  if not atom then
    atom = expr:find "^[%w_]+$" and expr or "(" .. expr .. ")"
    self.unit.atoms[expr] = atom
  end
  return atom
end

--- Starts a function; what is written until the next step (or the recipe's end) is its body.
function Writer:step(options)
  self:finish()
  self.body, self.depth, self.names = {}, 1, {}
  self.head, self.seen, self.stack = {}, {}, 0
  self.current = {
    label = self.label .. (options.label and " (" .. options.label .. ")" or ""),
    tiles = options.tiles, when = options.when or "always", joins = options.joins, operands = {}, dims = {}, streams = {},
  }
end

-- Closes the function being written and hands its text to the unit.
function Writer:finish()
  local step = self.current
  if not step then return end
  assert(self.depth == 1, "recipe left a brace open")
  local text = table.concat(self.head) .. table.concat(self.body, "\n") .. "\n"
  step.fn = self.unit:fn(text, step.label)
  self.steps[#self.steps + 1] = step
  self.current = nil
end

function Writer:tiles(body)
  self:open("for (long t = lo; t < hi; t++)")
  body("t")
  self:close()
end

function Writer:range(t, size, count)
  local start, n = self:name("start"), self:name("n")
  self:line("long %s = %s * %dL, %s = %s - %s;", start, t, size, n, self:dim(count), start)
  self:line("if (%s > %dL) %s = %dL;", n, size, n, size)
  return start, n
end

-- ---- operands of the step ----

-- The C name of `key` in this function; on first use `entry` joins `list` and the name is declared.
local function once(self, key, prefix, list, entry, declare)
  local name = self.seen[key]
  if not name then
    list[#list + 1] = entry
    name = prefix .. (#list - 1)
    self.seen[key] = name
    local value = self.source[prefix]:format(#list - 1)
    self.head[#self.head + 1] = ("  %s = %s;\n"):format(declare:format(name), value)
  end
  return name
end

Writer.source = { p = "a->p[%d]", d = "a->d[%d]", s = "a->key + %d * 2" }

local function operand(self, key, entry)
  return once(self, key, "p", self.current.operands, entry, "char *const %s")
end

function Writer:read(arg)
  assert(arg.base, "only a materialised operand has an address")
  return operand(self, "r" .. arg.base, { value = arg.base, write = false })
end

function Writer:constant(arg) return self.unit.fixed[arg.base] == true end

function Writer:write(id)
  return operand(self, "w" .. id, { value = id, write = true })
end

function Writer:temp(bytes, kept)
  self.temps[#self.temps + 1] = { bytes = bytes, kept = kept or nil }
  return #self.temps
end

function Writer:ptr(temp)
  return operand(self, "t" .. temp, { temp = temp })
end

function Writer:dim(d)
  local value = self.dims:value(d)
  if value then return value < 0 and ("(%dL)"):format(value) or ("%dL"):format(value) end
  return once(self, "d" .. d, "d", self.current.dims, d, "const long %s")
end

function Writer:key(stream)
  return once(self, "s" .. stream, "s", self.current.streams, stream, "const unsigned *const %s")
end

function Writer:fault(arg)
  return ("*a->fault = %dL;"):format(tonumber(self:read(arg):sub(2)) + 1)
end

function Writer:offset(offset, strides, index)
  local terms = {}
  if offset and self.dims:value(offset) ~= 0 then terms[1] = self:dim(offset) end
  for i, stride in ipairs(strides) do
    local at, value = index[i] or 0, self.dims:value(stride)
    if tostring(at) ~= "0" and value ~= 0 then
      local text = type(at) == "number" and ("%dL"):format(at) or self:atom(at)
      terms[#terms + 1] = value == 1 and text or text .. " * " .. self:dim(stride)
    end
  end
  return #terms > 0 and table.concat(terms, " + ") or "0L"
end

function Writer:at(arg, index)
  local offset = self:offset(arg.offset, arg.strides, index)
  local base = self:read(arg)
  return offset == "0L" and base or ("(%s + %s * %dL)"):format(base, self:atom(offset), self:bytes(arg.dtype))
end

function Writer:buffer(dtype, count)
  local name = self:name("buffer")
  self.stack = self.stack + math.ceil(count * self:bytes(dtype) / 8) * 8
  if self.stack > STACK_LIMIT then
    error(("recipe %s: %d bytes of stack buffers in one function, at most %d: use k:temp")
      :format(self.group.kind, self.stack, STACK_LIMIT), 2)
  end
  self.head[#self.head + 1] = ("  %s %s[%d];\n"):format(self:ctype(dtype), name, count)
  return name
end

-- ---- types and dimensions ----

function Writer:bytes(dtype) return native.dtypebytes[dtype] end

function Writer:ctype(dtype)
  return CTYPE[dtype]
    or error(("recipe %s: no arithmetic on %s yet; cast to f32"):format(self.group.kind, dtype), 2)
end

function Writer:raw(expr, dtype) return ("((%s *)%s)"):format(self:ctype(dtype), self:atom(expr)) end

function Writer:choice(name, candidates) return self.unit:choice(name, candidates, self.label) end

function Writer:lanes(dtype) return vec.lanes(self.isa, dtype) end

function Writer:product(dims)
  local product = self.dims:const(1)
  for _, d in ipairs(dims) do product = self.dims:mul(product, d) end
  return product
end

function Writer:ceildiv(d, n) return self.dims:ceildiv(d, n) end

function Writer:contiguous(shape)
  local strides, stride = {}, self.dims:const(1)
  for axis = #shape, 1, -1 do
    strides[axis] = stride
    stride = self.dims:mul(stride, shape[axis])
  end
  return strides
end

function Writer:collapse(extents, lists) return rows.collapse(self.dims, extents, lists) end
function Writer:unravel(extents, pos) return rows.unravel(self, extents, pos) end
function Writer:walk(options) return rows.walk(self, options) end
function Writer:epilogue(options) return chain.epilogue(self, options) end
function Writer:epilogue_rows(options) return region.epilogue_rows(self, options) end
function Writer:ending(plus) return region.ending(self, plus) end

function Writer:epilogue_step(temp)
  if #self.group.epilogue == 0 then return end
  local id = self.group.anchor
  local total = self:product(self.graph:shape(id))
  self:step { tiles = self.dims:ceildiv(total, EPILOGUE_CHUNK), label = "epilogue" }
  self:tiles(function(t)
    local start, n = self:range(t, EPILOGUE_CHUNK, total)
    local from = temp and ("%s + %s * %dL"):format(self:ptr(temp), start, self:bytes(self.graph:dtype(id)))
    self:epilogue { start = start, n = n, from = from }
  end)
end

-- ---- vector blocks ----

function Writer:block(build, dtype, key, isa)
  dtype = dtype or self.graph:dtype(self.group.anchor or self.group.outputs[1])
  if not key then return self.unit:block(build, dtype, isa) end
  local keyed = self.unit.keyed
  key = dtype .. " " .. key
  keyed[key] = keyed[key] or self.unit:block(build, dtype)
  return keyed[key]
end

function Writer:call(block, words)
  local w = self:name("w")
  local set = {}
  for i, word in ipairs(words) do set[i] = ("%s[%d] = (long)%s;"):format(w, i - 1, self:atom(tostring(word))) end
  self:line("{ long %s[%d]; %s %s(%s); }", w, math.max(#words, 1), table.concat(set, " "), block, w)
end

function Writer:note(b, id) b:note(self.ordinal[id]) end

--- A writer for one group; ordinal[id] = position of a node in the group, label = the group for
-- people.
function M.new(unit, group, ordinal, label)
  local k = setmetatable({
    unit = unit, graph = unit.graph, dims = unit.graph:dims(), isa = unit.isa, group = group,
    ordinal = ordinal, label = label, steps = {}, temps = {}, stored = false,
  }, Writer)
  for _, id in ipairs(group.outputs) do k.stored = k.stored or id == group.anchor end
  return k
end

return M
