package consume

import "sync/atomic"

// budget shares the memory for fetched messages among the lanes of a node. Each
// lane is sure of floor bytes; what is above comes from a pool by need. All
// methods may be called at once.
type budget struct {
	total, floor, most int64
	lanes              atomic.Int64
	above              atomic.Int64 // what lanes hold above their floor
}

// grant is how many bytes a lane may fetch now that holds held bytes, idle of them not leased; 0: none.
func (b *budget) grant(held, idle int64) int {
	room := b.most - idle
	if room <= 0 {
		return 0
	}
	sure := max(0, b.floor-held)
	free := max(0, b.total-b.lanes.Load()*b.floor-b.above.Load())
	// An equal share of what is free: all lanes may ask at the same time, before any of the answers is counted.
	return int(min(room, sure+free/max(1, b.lanes.Load())))
}

// moved says that a lane held was bytes and holds is now.
func (b *budget) moved(was, is int64) {
	if d := max(0, is-b.floor) - max(0, was-b.floor); d != 0 {
		b.above.Add(d)
	}
}
