package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Holder keeps the newest snapshot. Current is one atomic load; all methods may
// be called by any goroutine.
type Holder struct {
	current atomic.Pointer[Snapshot]
	metrics *metrics

	mu      sync.Mutex    // guards changed, and orders Set
	changed chan struct{} // closed at the next change
}

// NewHolder makes an empty holder: version 0, nothing known.
func NewHolder(reg prometheus.Registerer) *Holder {
	h := &Holder{changed: make(chan struct{}), metrics: newMetrics(reg)}
	h.current.Store(&Snapshot{})
	return h
}

// Current is the newest snapshot, never nil. It must not be changed.
func (h *Holder) Current() *Snapshot { return h.current.Load() }

// Changed is closed at the next change. To miss none, take the channel before Current.
func (h *Holder) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// Set makes s the newest snapshot. The same version again is no change. A lower
// version, or the snapshot of another control store, is refused.
func (h *Holder) Set(s *Snapshot) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.current.Load()
	if old.StoreID != "" && s.StoreID != old.StoreID {
		h.metrics.refused.WithLabelValues("other_store").Inc()
		return fmt.Errorf("snapshot %d is of control store %s, this node follows %s; join the right control plane, or remove the node's snapshot folder to change over", s.Version, s.StoreID, old.StoreID)
	}
	if s.Version < old.Version {
		h.metrics.refused.WithLabelValues("older").Inc()
		return fmt.Errorf("snapshot %d is older than %d, which this node has; the control store went back in time (restored from a backup?)", s.Version, old.Version)
	}
	if s.Version == old.Version && old.StoreID != "" {
		return nil
	}
	h.current.Store(s)
	h.metrics.version.Set(float64(s.Version))
	close(h.changed)
	h.changed = make(chan struct{})
	return nil
}

// Keep writes every change to disk until ctx ends; the last one is written
// before it returns. Run it in a goroutine of its own. A failed write is logged
// and counted, and tried again with the next change: the node works on.
func (h *Holder) Keep(ctx context.Context, d *Disk, log *slog.Logger) {
	saved := h.Current().Version
	if disk, _ := d.Load(); disk == nil || disk.Version != saved {
		saved = 0 // what Load complained of was said at start
	}
	for {
		changed := h.Changed()
		if s := h.Current(); s.Version != saved && s.StoreID != "" {
			if err := d.Save(s); err != nil {
				h.metrics.saveErrors.Inc()
				log.Error("snapshot not saved", "snapshot", s.Version, "err", err)
			} else {
				saved = s.Version
			}
		}
		select {
		case <-changed:
			continue
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
