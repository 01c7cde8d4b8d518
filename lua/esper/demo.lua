--- The whole catalogue, compiled, proved and run: the table of `make demo`.
local draw = require "esper.draw"
local esper = require "esper"
local native = require "esper.native"
local tensor = require "esper.tensor"
local text = require "esper.text"

local M = {}

local HEAD = { "blueprint", "nodes", "kernels", "params", "compile ms", "eval ulp", "relative", "train ulp", "relative", "shapes",
  "certificate" }

-- A small input for the example output: every symbol 2 (or the least its range allows).
local function example(kernel, graph)
  local values = {}
  for _, s in ipairs(graph:dims():symbols()) do values[s.name] = math.max(s.min, math.min(s.max, 2)) end
  local value
  for size = 2, 64 do
    value = draw.evaluate(graph, values)
    local good = value ~= nil
    for id = 0, graph:count() - 1 do
      for _, d in ipairs(graph:shape(id)) do good = good and value(d) > 0 end
    end
    if good then break end
    for _, s in ipairs(graph:dims():symbols()) do values[s.name] = math.max(s.min, math.min(s.max, size)) end
  end
  local inputs = {}
  for id = 0, graph:count() - 1 do
    if graph:op(id) == "input" then
      local shape = {}
      for i, d in ipairs(graph:shape(id)) do shape[i] = value(d) end
      local dtype, name = graph:dtype(id), graph:label(id)
      inputs[name] = dtype:match("^f") and tensor.randn(shape, 1, dtype)
        or tensor.sample("index", dtype, shape, 1, 0, 0, draw.index_bound(graph, id, value))
    end
  end
  return kernel:run(inputs, { seed = 1 })
end

local function picture(outputs)
  for _, name in ipairs(text.keys(outputs)) do
    local t, cells = outputs[name], {}
    for i = 0, math.min(3, t.count - 1) do cells[#cells + 1] = ("%.5g"):format(tonumber(t.data[i])) end
    return ("%s[%s] = %s%s"):format(name, table.concat(t.shape, ", "), table.concat(cells, " "), t.count > 4 and " ..." or "")
  end
end

local function verdict(c)
  return c.passed and (c.torch and "oracle + libtorch + memory" or "oracle + memory") or "FAILED"
end

function M.run(shapes)
  local rows, failed = { HEAD }, {}
  local names = esper.catalogue()
  print(("%d blueprints, each compiled and proved in eval and train mode; an output of each (small sizes, seed 1):"):format(#names))
  io.stdout:flush()
  for _, name in ipairs(names) do
    local made, certificates = {}, {}
    for _, mode in ipairs { "eval", "train" } do
      local kernel, why = esper.compile(name, { mode = mode })
      if not kernel then return nil, name .. " (" .. mode .. "): " .. why end
      local tick, done = require("esper.cli.progress").new(name .. " " .. mode)
      certificates[mode] = esper.certify(kernel, { shapes = shapes, progress = tick })
      done()
      made[mode] = kernel
      if not certificates[mode].passed then failed[#failed + 1] = ("%s (%s): %s"):format(name, mode, certificates[mode].failure) end
    end
    local k, e, t = made.eval, certificates.eval, certificates.train
    rows[#rows + 1] = { name, k.graph:count(), k.kernels, text.count(k:param_count()),
      k.status == "CACHED" and "stored" or ("%.2f"):format(k.ms.total), ("%.1f"):format(e.functional.max_ulp),
      ("%.1e"):format(e.functional.max_rel), ("%.1f"):format(t.functional.max_ulp), ("%.1e"):format(t.functional.max_rel),
      e.functional.shapes + t.functional.shapes, verdict(e.passed and t or e) }
    local outputs, why
    if e.passed then outputs, why = example(k, k.graph) end
    print(("  %-28s %s"):format(name, outputs and picture(outputs) or "none: " .. (why or e.failure)))
    io.stdout:flush()
    collectgarbage()
  end
  print()
  print(text.columns(rows, "lrrrrrrrrrl"))
  print(("%d blueprints, %d failed"):format(#names, #failed))
  if #failed > 0 then return nil, table.concat(failed, "\n       ") end
  return true
end

return M
