package consume

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	commitTimeout = 10 * time.Second
	finalTries    = 5
	finalPause    = 200 * time.Millisecond
)

// position is what a commit says of one lane.
type position struct {
	p       *partition
	offset  int64
	text    string
	version uint64
}

// poke says that something is to be committed.
func (m *member) poke() {
	select {
	case m.pokes <- struct{}{}:
	default:
	}
}

// commitLoop commits what changed, at most once in CommitEvery. A quiet group costs nothing.
func (m *member) commitLoop(ctx context.Context, gr mq.Group) {
	for {
		select {
		case <-m.pokes:
		case <-ctx.Done():
			return
		}
		if !pause(ctx, m.e.cfg.CommitEvery) {
			return
		}
		m.commitDirty(ctx, gr)
	}
}

// commitDirty commits the lanes that changed, as far as the bytes for maps reach.
func (m *member) commitDirty(ctx context.Context, gr mq.Group) {
	select {
	case m.commits <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-m.commits }()
	lanes := m.g.hub.all()
	start := int(m.g.hub.turn.Load())
	var ps []position
	for i := range lanes {
		p := lanes[(start+i)%len(lanes)]
		if p.m != m || p.from != gr || p.closing.Load() || !p.dirty.Load() {
			continue
		}
		pos, ok := m.position(p, false)
		if !ok {
			continue
		}
		if len(pos.text) > 0 && !m.e.maps.AllowN(time.Now(), len(pos.text)) {
			m.e.m.mapsWaiting.Inc()
			p.dirty.Store(true)
			m.poke()
			continue
		}
		ps = append(ps, pos)
	}
	m.send(ctx, gr, ps)
}

// position asks a lane what may be committed, for the last time where it is final; false: the lane is gone.
func (m *member) position(p *partition, final bool) (position, bool) {
	pos := position{p: p}
	var am ackmap.Map
	var id string
	ok := p.call(func() {
		at := p.l.Position()
		pos.offset, pos.version, am, id = at.Offset, at.Version, at.Map, p.topicID
		am.Clean = final && p.l.Open() == 0
		p.sealed = final
		p.spoken = at.Version
		p.dirty.Store(false)
	})
	if !ok {
		return pos, false
	}
	if m.caps.CommitMetadata > 0 && !m.mapsOff.Load() {
		pos.text = ackmap.Encode(id, pos.offset, am)
	}
	return pos, true
}

// send commits and tells the lanes. It returns those that may succeed if tried again. The caller holds the commits token.
func (m *member) send(ctx context.Context, gr mq.Group, ps []position) (again []position) {
	if len(ps) == 0 {
		return nil
	}
	cs := make(map[mq.PartitionID]mq.Commit, len(ps))
	for _, pos := range ps {
		cs[pos.p.id] = mq.Commit{Offset: pos.offset, Map: pos.text}
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	failed := gr.Commit(ctx, m.epoch.Load(), cs)
	for _, pos := range ps {
		err := failed[pos.p.id]
		if err == nil {
			m.e.m.commits.WithLabelValues("ok").Inc()
			pos.p.call(func() { pos.p.committedAt(pos) })
			continue
		}
		m.e.m.commits.WithLabelValues(mq.ClassOf(err).Error()).Inc()
		if m.commitFailed(pos, err) {
			again = append(again, pos)
		}
	}
	return again
}

// committedAt notes what the broker has; in the lane's goroutine.
func (p *partition) committedAt(pos position) {
	p.committed = pos.offset
	p.l.Committed(pos.version)
	if p.hold {
		p.hold = false
		p.l.Hold(0)
	}
}

// commitFailed tells whether trying again makes sense.
func (m *member) commitFailed(pos position, err error) bool {
	p := pos.p
	if errors.Is(err, mq.Fenced) {
		// Somebody else owns it: what is leased here counts no more.
		m.e.log.Warn("commit refused, the partition is another member's now; its lane ends", p.attrs("offset", pos.offset, "err", err)...)
		p.stop()
		m.rejoinSoon()
		return false
	}
	if errors.Is(err, mq.TooLarge) && pos.text != "" && !m.mapsOff.Swap(true) {
		m.e.log.Error("the broker takes no ack maps of this size; commits go without them, a new owner repeats what was accepted out of order", p.attrs("bytes", len(pos.text), "err", err)...)
	} else {
		m.e.log.Warn("commit failed; it is tried again", p.attrs("offset", pos.offset, "err", err)...)
	}
	p.dirty.Store(true)
	m.poke()
	return true
}

// commitFinal commits lanes that have stopped, with the word whether leases of them may still be out.
func (m *member) commitFinal(gr mq.Group, ps []*partition) {
	ctx, cancel := context.WithTimeout(m.e.ctx, commitTimeout)
	defer cancel()
	select {
	case m.commits <- struct{}{}: // a commit under way must not land after this one
	case <-ctx.Done():
		return
	}
	defer func() { <-m.commits }()
	for tries := range finalTries {
		var now []position
		for _, p := range ps {
			if pos, ok := m.position(p, true); ok {
				now = append(now, pos)
			}
		}
		again := m.send(ctx, gr, now)
		if len(again) == 0 || tries == finalTries-1 || !pause(ctx, finalPause) {
			return
		}
		ps = ps[:0:0]
		for _, pos := range again {
			ps = append(ps, pos.p)
		}
	}
}
