package mq

// Headers that Sluice adds to records; all values are text. Names that begin
// with HeaderPrefix are refused from publishers.
const (
	HeaderPrefix = "sluice-"
	// HeaderID is the message's id.
	HeaderID = "sluice-id"
	// HeaderAttempt of a parked or dead copy: how often it was delivered, in decimal.
	HeaderAttempt = "sluice-attempt"
	// HeaderDue of a parked copy: not to be delivered before, in milliseconds since 1970, UTC.
	HeaderDue = "sluice-due"
	// The origin of a parked or dead copy: logical topic, cluster, partition as
	// PartitionID.String gives it, offset in decimal.
	HeaderOriginTopic     = "sluice-origin-topic"
	HeaderOriginCluster   = "sluice-origin-cluster"
	HeaderOriginPartition = "sluice-origin-partition"
	HeaderOriginOffset    = "sluice-origin-offset"
	// HeaderCause of a dead copy: why it was given up, at most 1 KiB.
	HeaderCause = "sluice-cause"
	// HeaderDeadAt of a dead copy: when, in milliseconds since 1970, UTC.
	HeaderDeadAt = "sluice-dead-at"
)
