package peer

// GroupStatus is what a node holds of a group.
type GroupStatus struct {
	Lanes   []LaneStatus
	Clients int
}

// LaneStatus is one lane of a group.
type LaneStatus struct {
	Topic, Cluster, Partition         string
	Committed, Fetched, HighWatermark int64
	Leased, Buffered, Window          int
	Epoch                             uint64
	Blocked                           string // "", or why the lane stands still
}
