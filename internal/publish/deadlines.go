package publish

import (
	"context"
	"sync"
	"time"
)

// deadlines shares contexts among batches whose deadlines lie close together: a
// context with a timer for every batch would cost as much as the rest of its way.
// A shared context ends up to one grain before the batch's deadline, never after.
type deadlines struct {
	base   context.Context
	mu     sync.Mutex // guards shared
	shared map[int64]context.Context
}

// grain is how much earlier a batch of the default time-out may end.
const grain = 50 * time.Millisecond

// at gives a context that ends at the deadline. Short time-outs get one of their
// own; release must be called when the batch is settled.
func (d *deadlines) at(deadline time.Time, timeout time.Duration) (ctx context.Context, release context.CancelFunc) {
	if timeout < 20*grain {
		return context.WithDeadline(d.base, deadline)
	}
	n := deadline.UnixNano() / int64(grain)
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx := d.shared[n]; ctx != nil {
		return ctx, noRelease
	}
	// deadline keeps its monotonic reading this way, so that a step of the wall clock does not matter.
	exact := deadline.Add(-time.Duration(deadline.UnixNano() % int64(grain)))
	ctx, cancel := context.WithDeadline(d.base, exact)
	if d.shared == nil {
		d.shared = map[int64]context.Context{}
	}
	d.shared[n] = ctx
	context.AfterFunc(ctx, func() {
		cancel()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.shared[n] == ctx {
			delete(d.shared, n)
		}
	})
	return ctx, noRelease
}

func noRelease() {}
