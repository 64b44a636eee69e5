package consume

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/receipt"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// eventBuffer is how many events wait for a client that does not look.
const eventBuffer = 64

// crowded is how long a session waits where the node has no lease to give.
const crowded = 20 * time.Millisecond

// session is one attached client.
type session struct {
	e        *Engine
	g        *group
	id       uint64
	app      string
	settings snapshot.Settings
	topics   uint64 // bits of the group's topics
	lease    time.Duration
	limit    int64

	out  atomic.Int64  // leases that run
	full atomic.Bool   // Next waits for one of them to end
	told atomic.Bool   // Next should return, there is an event
	wake chan struct{} // one token

	mu     sync.Mutex // guards closed, err, and sends on events
	closed bool
	err    *fault.Error
	events chan Event

	// Next's own.
	signer *receipt.Signer
	heads  map[*partition][]byte
	leased []lane.Leased
}

var _ Session = (*session)(nil)

// Settings implements Session.
func (s *session) Settings() snapshot.Settings { return s.settings }

// Events implements Session.
func (s *session) Events() <-chan Event { return s.events }

func (s *session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// push tells the client something. Where it does not look, the oldest event makes room.
func (s *session) push(ev Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if ev.Err != nil {
		s.err = ev.Err
	}
	for {
		select {
		case s.events <- ev:
			s.told.Store(true)
			s.poke()
			return
		default:
		}
		select {
		case <-s.events:
			s.e.m.events.Inc()
		default:
		}
	}
}

// freed says that leases of this client ended.
func (s *session) freed(n int) {
	s.out.Add(int64(-n))
	if s.full.CompareAndSwap(true, false) {
		s.poke()
	}
}

// state fails once the session cannot go on.
func (s *session) state() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fault.New(fault.Cancelled, "the session of group %q is closed", s.g.name)
	}
	if s.err != nil {
		return s.err
	}
	return nil
}

// Next implements Session.
func (s *session) Next(ctx context.Context, most int, wait time.Duration) ([]Delivery, error) {
	if most <= 0 {
		return nil, fault.New(fault.InvalidArgument, "a pull for %d messages; ask for at least 1", most)
	}
	var late <-chan time.Time
	for {
		if err := s.state(); err != nil {
			return nil, err
		}
		room := s.room(most)
		if room > 0 {
			ds, err := s.collect(room)
			if ended := s.state(); ended != nil {
				s.Return(ds) // closed meanwhile: nobody would settle them
				return nil, ended
			}
			if len(ds) > 0 || err != nil {
				return ds, err
			}
		}
		if s.told.Swap(false) || wait <= 0 {
			return nil, nil
		}
		if late == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			late = timer.C
		}
		if again, err := s.sleep(ctx, room, late); !again || err != nil {
			return nil, err
		}
	}
}

// room is how many messages may be leased now.
func (s *session) room(most int) int {
	n := min(int64(most), s.limit-s.out.Load())
	if n <= 0 {
		s.full.Store(true)
		// One may have ended before full was seen.
		n = min(int64(most), s.limit-s.out.Load())
	}
	return int(max(0, n))
}

// sleep waits until there may be something to lease; false: until it is too late.
func (s *session) sleep(ctx context.Context, room int, late <-chan time.Time) (again bool, err error) {
	var poll <-chan time.Time
	switch {
	case room <= 0: // woken by freed
	case s.e.leases.Load() >= int64(s.e.cfg.MaxLeases):
		timer := time.NewTimer(crowded)
		defer timer.Stop()
		poll = timer.C
	default:
		// Registered before the last look, so that a lane that gets ready in between is not missed.
		s.g.hub.wait(s)
		defer func() {
			if s.g.hub.leave(s) && !again {
				s.g.hub.passOn()
			}
		}()
		if s.g.hub.ready(s.topics) {
			return true, nil
		}
	}
	select {
	case <-s.wake:
		return true, nil
	case <-poll:
		return true, nil
	case <-late:
		return false, nil
	case <-ctx.Done():
		return false, fault.Wrap(context.Cause(ctx), fault.Cancelled, "the pull of group %q was given up by its caller", s.g.name)
	}
}

// collect leases up to most messages from the lanes that have some, each time from another one on.
func (s *session) collect(most int) ([]Delivery, error) {
	lanes := s.g.hub.all()
	if len(lanes) == 0 {
		return nil, nil
	}
	var ds []Delivery
	start, bytes := int(s.g.hub.turn.Add(1)), s.e.cfg.PullBytes
	for i := range lanes {
		p := lanes[(start+i)%len(lanes)]
		if p.ready.Load()&s.topics == 0 {
			continue
		}
		if s.signer == nil || !s.fresh() {
			if err := s.renewSigner(); err != nil {
				return ds, err
			}
		}
		deadline := s.e.now().Add(s.lease)
		got := s.leased[:0]
		if !p.call(func() { got = p.lease(s, most-len(ds), bytes, deadline, got) }) {
			continue
		}
		s.leased = got
		var err error
		if ds, err = s.deliver(ds, p, got, deadline); err != nil {
			p.call(func() { p.l.Return(p.e.clock(), s.id) })
			return ds, err
		}
		for j := range got {
			bytes -= got[j].Record.Bytes()
		}
		clear(got)
		if len(ds) >= most || bytes <= 0 {
			break
		}
	}
	return ds, nil
}

func (s *session) fresh() bool {
	keys := s.e.snap.Current().ReceiptKeys
	return len(keys) > 0 && keys[0].ID == s.signer.KeyID()
}

func (s *session) renewSigner() error {
	keys := s.e.snap.Current().ReceiptKeys
	if len(keys) == 0 {
		return fault.New(fault.Unavailable, "node %s has no key to sign receipts yet; it gets one from the control plane", s.e.node)
	}
	signer, err := receipt.NewSigner(receipt.Key{ID: keys[0].ID, Key: keys[0].Key})
	if err != nil {
		return fault.Wrap(err, fault.Internal, "the receipt key of the control plane cannot be used")
	}
	s.signer = signer
	return nil
}

// head is what all receipts of a lane for this app have in common.
func (s *session) head(p *partition) ([]byte, error) {
	if head, ok := s.heads[p]; ok {
		return head, nil
	}
	head, err := p.head(s.app)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "no receipt can be made for partition %s of %s", p.id, p.id.Topic)
	}
	if s.heads == nil || len(s.heads) > len(s.g.hub.all())+16 {
		s.heads = make(map[*partition][]byte) // lanes that are gone go too
	}
	s.heads[p] = head
	return head, nil
}

// deliver makes deliveries of leases. Receipts and ids of a batch lie in one piece of memory each.
func (s *session) deliver(ds []Delivery, p *partition, got []lane.Leased, deadline time.Time) ([]Delivery, error) {
	if len(got) == 0 {
		return ds, nil
	}
	head, err := s.head(p)
	if err != nil {
		return ds, err
	}
	if ds == nil {
		ds = make([]Delivery, 0, len(got))
	}
	receipts := make([]byte, 0, len(got)*receipt.Size(head))
	ids := make([]byte, 0, len(got)*40)
	from, again := len(ds), 0
	at := make([]int, 0, len(got))
	for i := range got {
		g := &got[i]
		start := len(receipts)
		receipts = s.signer.Append(receipts, head, receipt.Lease{
			Offset: g.Offset, Serial: g.Serial, Attempt: uint32(g.Attempt), DeadlineMs: deadline.UnixMilli(),
		})
		d := Delivery{
			Receipt: receipts[start:len(receipts):len(receipts)], Record: *g.Record,
			Attempt: g.Attempt, Deadline: deadline, Run: p.runOf(g.Run),
		}
		d.Topic, d.Cluster, d.Partition, d.Offset = p.place(g)
		if g.Attempt > 1 {
			again++
		}
		if g.ID != nil {
			ids = append(ids, g.ID...)
		} else {
			ids = placeID(ids, p.m.cluster, string(p.id.Topic), p.name, g.Offset)
		}
		at = append(at, len(ids))
		ds = append(ds, d)
	}
	text, start := string(ids), 0
	for i, end := range at {
		ds[from+i].ID = text[start:end]
		start = end
	}
	s.e.m.delivered.Add(float64(len(got)))
	if again > 0 {
		s.e.m.redelivered.Add(float64(again))
	}
	return ds, nil
}

// Return implements Session.
func (s *session) Return(ds []Delivery) {
	acks := make([]Ack, len(ds))
	for i := range ds {
		acks[i] = Ack{Receipt: ds[i].Receipt, Action: Return}
	}
	for start := 0; start < len(acks); start += maxSettle {
		s.e.settleLocal(s.app, s.g.name, acks[start:min(start+maxSettle, len(acks))])
	}
}

// Close implements Session.
func (s *session) Close(now bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.events)
	s.mu.Unlock()
	s.poke()
	if now {
		for _, p := range s.g.hub.all() {
			p.call(func() { p.l.Return(p.e.clock(), s.id) })
		}
	}
	s.g.detach(s)
}
