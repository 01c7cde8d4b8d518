--- Rows of a fold whose last statistic keeps its values (softmax), overlapped: one loop over the columns finishes the row
-- before, takes the values of this one and the first statistic of the next. A row after the other, each pass would wait for the
-- sum across lanes of the one before it, and for rows to come from and go to far caches. Used by emit_fold_block.lua.
--
--   overlap.possible(fold) -> bool       overlap.along(fold, w)       instead of the passes of Fold:along
-- Invariant: at one column this row is read first, then the row before is finished and this one's values kept: outputs may be
-- the input's own rows, and one row has room for the kept values. What is written for the row before the first one (to the
-- first one) is written over.

local amount = require "esper.emit_amount"
local kinds = require "esper.emit_fold_kinds"

local M = {}

local LONGEST = 8192 -- bytes of a row: four of them share the first-level cache

function M.possible(f)
  local spec, stats = f.spec, f.spec.stats
  if #stats ~= 2 or not stats[2].keep or f.stash or f.draw or spec.piece then return false end
  for _, o in ipairs(f.operands) do
    if o.at and type(amount.of(f.k, o.step)) ~= "number" then return false end
  end
  local extents = f:over_reduced(f:write_reads(), false)
  if #extents ~= 1 or #f:over_reduced(f:read_by(spec.front, spec.inputs), false) ~= 1 then return false end
  local row = extents[1]
  return type(row) == "number" and row >= (f.STRAIGHT + 1) * f.s.b.lanes and row * f.s.b.bytes <= LONGEST
end

-- The fold with addresses of its own for the operands `reads`.
local function view(f, reads)
  local copies = {}
  for _, i in ipairs(reads) do
    local o = {}
    for key, value in pairs(f.operands[i]) do o[key] = value end
    o.at = o.at and f.s.b:copy(o.at)
    copies[i] = o
  end
  return setmetatable({ operands = copies }, { __index = f })
end

-- Appends the operands `reads` of fold f to a pass's list. Gives the extents and fn(v): v for that fold alone.
local function join(list, f, reads)
  local base, extents, own = #list, f:over_reduced(reads, false)
  for i, o in ipairs(own) do list[base + i] = o end
  return extents, function(v)
    return {
      mask = v.mask, ahead = v.ahead,
      get = function(i) return v.get(base + own.where[i]) end,
      put = function(i, x) return v.put(base + own.where[i], x) end,
    }
  end
end

-- The addresses of `to` become those of f, and `rows` (a scalar, nil: none) rows more.
local function follow(f, to, rows)
  local b = f.s.b
  for i, o in pairs(to.operands) do
    if o.at then
      local step = rows and amount.of(f.k, o.step, o.bytes) or 0
      b:g_set(o.at, step ~= 0 and b:g_add(f.operands[i].at, b:g_mulk(rows, step)) or b:g_addk(f.operands[i].at, 0))
    end
  end
end

function M.along(f, w)
  local s, b, spec, home = f.s, f.s.b, f.spec, f.home
  local first, last = spec.stats[1], spec.stats[2]
  local reads, found = f:read_by(spec.front, spec.inputs), { false, b:splat(0) }
  local next_row, row_before = view(f, reads), view(f, f:write_reads())
  local opening, closing = f:stat_pass(1, first, {}), row_before:write_pass(found)
  local list, kind, of = {}, kinds[first.kind], kinds[last.kind]
  local extents, here = join(list, f, f:read_by(spec.front, spec.inputs, { home }))
  local _, ahead = join(list, next_row, reads)
  local _, behind = join(list, row_before, f:write_reads())
  local top, parts, add, sums, add_value = b:splat(0), nil, nil, nil, nil
  local pass = s:pass { extents = extents, operands = list, body = function(v)
    local now, done = here(v), behind(v)
    local x = last.value(b, f:value(now), top)
    add(v, first.value(b, f:value(ahead(v))))
    f:write(done, found, done.get(home))
    now.put(home, x)
    add_value(v, x)
  end }
  local left = b:g_addk(s:g(w.n), -1) -- rows behind this one
  local function look_ahead() follow(f, next_row, b:g_addk(b:g_shrk(b:g_addk(left, -1), 63), 1)) end -- the last one: at itself
  b:set(top, opening())
  look_ahead()
  b:loop(s:g(w.n), function()
    parts, add = kinds.accumulators(b, kind, 1)
    sums, add_value = kinds.accumulators(b, of, 1)
    pass()
    b:set(top, kind.lanes(b, parts[1]))
    b:set(found[2], last.finish(b, of.lanes(b, sums[1]), f.count))
    follow(f, row_before)
    for _, o in ipairs(f.operands) do
      if o.at then s:move(o.at, amount.of(f.k, o.step, o.bytes)) end
    end
    b:g_set(left, b:g_addk(left, -1))
    look_ahead()
  end)
  closing()
end

return M
