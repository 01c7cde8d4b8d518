--- Canonical form: dead nodes dropped, nodes in depth-first post-order from the roots, streams numbered (graph.h).
-- First of the passes, so that everything after it sees one order whatever order the blueprint was written in.
return {
  name = "canonical", version = 1,
  doc = "nodes in depth-first order from the roots, dead nodes dropped, random streams numbered",
  run = function(src)
    local graph, message, status = src:canonical()
    if not graph then error({ message = message, status = status }, 0) end
    return graph, src:count() - graph:count()
  end,
}
