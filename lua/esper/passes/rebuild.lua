--- The rewriting of graphs: a new graph from an old one, node by node. Used by every pass as ctx:rebuild.
--
--   ctx:rebuild(src, rule, settle) -> graph, changed
--   rule(b, id) -> new id, or nil for a plain copy; rule may be nil. (b:copy(id), true) also means: nothing changed
--   settle(b, roots) -> changed     may set `new` of each root once all nodes are there
-- Live nodes (reached from a root, and all inputs) are visited in order. In a rule:
--   b.src b.graph       old and new graph, over one dims table; read b.graph anew after b:add
--   b.op[id]            op name of an old node
--   b:map(old)          the new id that stands for an old node
--   b:input(id, k)      b:map of input k of old node id
--   b:add{ op=, inputs=, attrs=, dtype= } -> new id, at the source line of the node being replaced
--   b:copy(id)          the plain copy
--   b:sole(new)         true when one reader at most is known to use this new node; rules that would otherwise compute
--                       something twice ask for it
-- Invariant: the new graph has the same inputs, roots and root names. Until something changes b.graph is `src` itself and
-- the new ids are the old ones; the first change copies what was visited, dead or not, so those ids stay true. A pass
-- that finds nothing copies nothing and gives back `src`.
local graphs = require "esper.graph"
local native = require "esper.native"
local M = {}

local Builder = {}
Builder.__index = Builder
local ids = native.typeof("es_id[?]")

local function fail(message, status) error({ message = message, status = status }, 0) end

function Builder:map(old) return self.to[old] end
function Builder:input(id, k) return self.to[self.src:node(id)["in"][k - 1]] end

-- Copies one node of src, whose inputs have new ids already.
local function copy_node(b, id)
  local new, message, status = b.graph:copy(b.src, id, b.to)
  if not new then fail(message, status) end
  return new
end

-- Leaves `src` behind: a graph of our own with nodes 0 .. last under the ids they had.
local function part(b, last)
  local graph, message, status = graphs.new(b.src:name(), b.src:dims())
  if not graph then fail(message, status) end
  b.graph, b.borrowed = graph, false
  for id = 0, last do copy_node(b, id) end
end

function Builder:add(spec)
  if self.borrowed then part(self, self.copied) end
  spec.line = self.src:node(self.at).line
  local id, message, status = self.graph:add(spec)
  if not id then fail(message, status) end
  return id
end

function Builder:copy(id)
  if not self.borrowed then return copy_node(self, id) end
  self.copied = id
  return id
end

-- Does old node id read the value `new` stands for?
local function reads(b, id, new)
  local node = b.src:node(id)
  for k = 0, node.nin - 1 do
    if b.to[node["in"][k]] == new then return true end
  end
  return false
end

function Builder:sole(new) return self.alone[new] ~= false end

-- Of a graph that grows no more: its ops, which nodes are computed for a root, how many readers each has (a root counts
-- as one), how many are dead. Kept with the graph: most passes change nothing and the next one asks again.
local function survey(src)
  local count = src:count()
  if src.surveyed and src.surveyed.count == count then return src.surveyed end
  local s = { count = count, op = {}, uses = {}, live = {}, dead = 0 }
  local uses, live, op = s.uses, s.live, s.op
  for id = 0, count - 1 do
    op[id] = src:op(id)
    uses[id], live[id] = 0, op[id] == "input"
  end
  for _, root in ipairs(src:roots()) do
    live[root.node], uses[root.node] = true, uses[root.node] + 1
  end
  for id = count - 1, 0, -1 do
    if live[id] then
      local node = src:node(id)
      for k = 0, node.nin - 1 do
        local input = node["in"][k]
        live[input], uses[input] = true, uses[input] + 1
      end
    else
      s.dead = s.dead + 1
    end
  end
  src.surveyed = s
  return s
end

-- Applies the rule to a live node; 1 when it changed something.
local function visit(b, rule, id)
  b.at, b.copied = id, id - 1
  local new, plain
  if rule then new, plain = rule(b, id) end
  local changed = new and not plain and 1 or 0
  if changed == 1 and b.borrowed then part(b, b.copied) end -- it became an earlier node
  new = new or b:copy(id)
  b.alone[new] = b.uses[id] <= 1 and (b.alone[new] == nil or (b.alone[new] and reads(b, id, new)))
  b.to[id] = new
  return changed
end

function M.run(_, src, rule, settle)
  local s = survey(src)
  if not rule and not settle and s.dead == 0 then return src, 0 end
  local b = setmetatable({ src = src, graph = src, borrowed = true, copied = -1, op = s.op, uses = s.uses,
    to = ids(s.count), alone = {} }, Builder)
  local changed, count = 0, s.count
  for id = 0, count - 1 do b.to[id] = id end
  if s.dead > 0 then part(b, -1) end
  for id = 0, count - 1 do
    if s.live[id] then changed = changed + visit(b, rule, id) else b.to[id] = -1 end
  end
  local roots = src:roots()
  for _, root in ipairs(roots) do root.new = b.to[root.node] end
  b.at, b.copied = count - 1, count - 1
  if settle then changed = changed + settle(b, roots) end
  if b.borrowed then return src, 0 end
  for _, root in ipairs(roots) do
    local ok, why, code = b.graph:root(root.kind, root.name, root.new)
    if not ok then fail(why, code) end
  end
  return b.graph, changed + s.dead
end

return M
