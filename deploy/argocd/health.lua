-- Health of an OutboxRelay for Argo CD, from its conditions. Degraded: somebody must act, or it does not deliver.
-- Progressing: it becomes better by itself, or is not known yet. Suspended: paused.
local health = { status = "Progressing", message = "the operator has not looked at it yet" }
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

local function take(value, type)
  health.status, health.message = value, conditions[type].message
  return health
end

local function is(type, value)
  return conditions[type] ~= nil and conditions[type].status == value
end

if is("Stalled", "True") then
  return take("Degraded", "Stalled")
elseif is("Reconciling", "True") then
  return take("Progressing", "Reconciling")
elseif conditions.Ready == nil then
  return health
elseif conditions.Ready.reason == "Paused" then
  return take("Suspended", "Ready")
elseif conditions.Ready.reason == "NoSidecar" then
  return take("Degraded", "Ready")
end
for _, type in ipairs({ "SourceConnected", "SinkConnected", "CircuitClosed", "RetentionSafe" }) do
  if is(type, "False") then
    return take("Degraded", type)
  end
end
if is("Ready", "True") then
  return take("Healthy", "Ready")
end
return take("Progressing", "Ready")
