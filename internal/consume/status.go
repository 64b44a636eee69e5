package consume

import "cmp"

// status is what the lane says of itself; in its goroutine.
func (p *partition) status() LaneStatus {
	st := LaneStatus{
		Topic: p.topic, Cluster: p.m.cluster, Partition: p.name, Epoch: uint64(p.epoch),
		Committed: p.committed, Fetched: p.in.at, HighWatermark: p.high,
		Leased: p.l.Leased(), Buffered: p.l.Buffered() - p.l.Leased() + len(p.in.queue), Window: p.l.Span(),
		Blocked: cmp.Or(p.copies.blocked, p.in.blocked, p.l.Blocked()),
	}
	if p.retry {
		st.Topic = string(p.id.Topic)
	}
	if st.Blocked == "" && p.spec.paused {
		st.Blocked = "the group is paused"
	}
	return st
}

func compareStatus(a, b LaneStatus) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Cluster, b.Cluster),
		cmp.Compare(len(a.Partition), len(b.Partition)), cmp.Compare(a.Partition, b.Partition))
}
