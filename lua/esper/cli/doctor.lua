--- esper doctor
return {
  name = "doctor", usage = "[--json]", positional = { 0, 0 },
  doc = "Shows what was found: processor, ISA, caches, libtorch, store, limits.",
  options = { { "--json", nil, "print for machines" }, { "--no-torch", nil, "do not load libtorch" } },
  run = function(args)
    local facts = require("esper.doctor").facts { torch = not args.no_torch }
    if args.json then
      local out = {}
      for _, f in ipairs(facts) do out[f[1]] = f[2] end
      return true, out
    end
    for _, f in ipairs(facts) do print(("%-12s %s"):format(f[1], f[2])) end
    return true
  end,
}
