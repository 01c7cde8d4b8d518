--- Every stage of a compilation as text. `dump.text(source, stage, opts) -> text | nil, message, status`; opts as for compile.
local compile = require "esper.compile"
local native = require "esper.native"
local C = native.C
local M = {}

local function title(name, what) return ("==== %s (%s) ====\n"):format(name, what) end

local function dims_text(D, dims)
  local out = {}
  for i, d in ipairs(dims) do out[i] = D:text(d) end
  return table.concat(out, ", ")
end

local function arg_text(D, arg)
  if arg.node then return "%" .. arg.node end
  if arg.const then return ("%.9g"):format(arg.const) end
  local offset = D:value(arg.offset) == 0 and "" or D:text(arg.offset) .. " + "
  return ("%%%d[%s(%s)]"):format(arg.base, offset, dims_text(D, arg.strides))
end

local function group_text(f, n, group, out)
  local D, stored = f.D, {}
  for _, id in ipairs(group.outputs) do stored[id] = true end
  out[#out + 1] = ("group %d %s [%s]\n"):format(n, group.kind, dims_text(D, group.space))
  local function node(id, part)
    local args = {}
    for i, arg in ipairs(group.args[id]) do args[i] = arg_text(D, arg) end
    local layout = id == group.anchor and group.layout and ("[(%s)]"):format(dims_text(D, group.layout)) or ""
    out[#out + 1] = ("  %-8s %s%%%d%s = %s(%s)\n"):format(part, stored[id] and "store " or "", id, layout, f.op[id],
      table.concat(args, ", "))
  end
  for _, id in ipairs(group.prologue) do node(id, "before") end
  if group.anchor then node(group.anchor, "anchor") end
  for _, id in ipairs(group.epilogue) do node(id, group.anchor and "after" or "") end
end

-- Text of groups: reads as base[offset + (strides)], a value of the same group as %id.
local function groups_text(result)
  local out, alias = {}, {}
  for n, group in ipairs(result.groups) do group_text(result.facts, n, group, out) end
  for id, base in pairs(result.alias) do alias[#alias + 1] = { id, base } end
  table.sort(alias, function(a, b) return a[1] < b[1] end)
  for _, pair in ipairs(alias) do out[#out + 1] = ("alias %%%d = %%%d\n"):format(pair[1], pair[2]) end
  return table.concat(out)
end
M.groups = groups_text

local function passes_text(r)
  local out = {}
  for _, entry in ipairs(r.report) do
    out[#out + 1] = title(entry.name, ("%d changes, %d nodes, %.3f ms"):format(entry.changed, entry.nodes, entry.ms))
    if entry.changed > 0 then
      out[#out + 1] = "-- before\n" .. entry.before .. "-- after\n" .. entry.after
    end
  end
  return table.concat(out)
end

local function late(what) return function() return nil, what, "EARG" end end

-- From a finished compile, or (early) from its first stages only.
local STAGES = {
  graph  = { early = true, function(r) return r.graph:text(true) end },
  passes = { early = true, function(r) return passes_text(r) end },
  groups = { early = true, function(r) return groups_text(r.groups) end },
  plan   = { function(r) return native.text(C.es_plan_print, r.plan) end },
  vec    = { function(r) return r.blocks end },
  c      = { function(r) return r.unit end },
  asm    = { function(r)
    if r.isa == "scalar" then return nil, "stage 'asm': the plain C target has no encoded instructions, see stage 'c'", "EARG" end
    return r.blocks
  end },
  torchscript = { late "stage 'torchscript' is part of the CUDA target, which this version does not have yet" },
}
local NAMES = "graph, passes, groups, plan, vec, c, asm or torchscript"

function M.text(source, stage, opts)
  local row = STAGES[stage]
  if not row then return nil, ("stage '%s'; wanted %s"):format(tostring(stage), NAMES), "EARG" end
  local options = {}
  for k, v in pairs(opts or {}) do options[k] = v end
  options.store, options.show, options.listing = nil, stage == "passes", (stage == "vec" or stage == "asm") and stage
  local r, message, status = (row.early and compile.early or compile.compile)(source, options)
  if not r then return nil, message, status end
  return row[1](r)
end

return M
