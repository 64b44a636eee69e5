package consume

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/lane"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/receipt"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// partition runs one lane. Fields below "owned" belong to its goroutine; others get at them by call.
type partition struct {
	e       *Engine
	g       *group
	m       *member
	id      mq.PartitionID
	name    string // id.String()
	epoch   int64  // of the assignment that brought it
	topicID string
	retry   bool   // of the group's retry topic
	topic   string // logical; "" for a retry lane
	bit     int    // of topic
	runBase uint64 // tells runs of different lanes apart

	from mq.Group

	ready   atomic.Uint64 // topics with something to lease
	dirty   atomic.Bool   // waits for a commit
	closing atomic.Bool   // only the final commit may speak for it
	calls   chan call
	fetched chan fetched
	wants   chan want
	ctx     context.Context
	stop    context.CancelFunc
	dead    chan struct{} // closed when the goroutine has ended
	drained chan struct{} // closed when it is stopped and nothing is open
	work    sync.WaitGroup

	// owned
	l         *lane.Lane
	spec      *spec
	timer     *time.Timer
	window    int
	spoken    uint64 // version of the newest position that a commit was made of
	committed int64
	high      int64
	held      int64 // bytes that the budget knows of
	hold      bool  // nothing goes out before the first commit
	stopped   bool
	sealed    bool // its final position was taken: an accept would be lost, so it is refused
	in        intake
	copies    copies
}

// call is a function to run in the lane's goroutine.
type call struct {
	do   func()
	done chan struct{}
}

// call runs do in the lane's goroutine and waits for it; false: the lane is gone and do did not run (or the lane
// ended over it).
func (p *partition) call(do func()) bool {
	done := p.e.dones.Get().(chan struct{})
	select {
	case p.calls <- call{do: do, done: done}:
	case <-p.dead:
		return false
	}
	select {
	case <-done:
		p.e.dones.Put(done)
		return true
	case <-p.dead:
		select {
		case <-done: // it was the last thing that the lane did
			return true
		default:
			return false
		}
	}
}

// run is the lane's goroutine.
func (p *partition) run() {
	defer p.end()
	p.timer = time.NewTimer(time.Hour)
	defer p.timer.Stop()
	p.work.Go(p.fetchLoop)
	p.after()
	for {
		select {
		case <-p.ctx.Done():
			return
		case c := <-p.calls:
			c.do()
			c.done <- struct{}{}
		case f := <-p.fetched:
			p.took(f)
		case <-p.timer.C:
		}
		p.after()
	}
}

// end calls off what is leased and gives everything back. A broken invariant takes the lane down, not the node.
func (p *partition) end() {
	if cause := recover(); cause != nil {
		p.e.m.panics.Inc()
		p.e.log.Error("lane ended by a broken invariant; its partition is taken up anew", p.attrs("err", fmt.Sprint(cause), "stack", string(debug.Stack()))...)
		p.m.rejoinSoon()
	}
	p.stop()
	p.ready.Store(0)
	p.g.hub.remove(p)
	p.e.forget(p)
	func() {
		defer func() { _ = recover() }() // the lane may be what broke
		p.l.Revoke()
		p.effects()
	}()
	p.e.budget.moved(p.held, 0)
	p.e.m.bytes.Sub(float64(p.held))
	p.e.budget.lanes.Add(-1)
	p.e.m.lanes.Dec()
	close(p.dead)
	p.work.Wait()
}

// after does what a step left to do.
func (p *partition) after() {
	now := p.e.clock()
	p.admit(now)
	p.l.Tick(now)
	p.effects()
	p.askFetch(now)
	p.account()
	p.publish(now)
	p.arm(now)
	if p.l.Version() != p.spoken && !p.dirty.Swap(true) {
		p.m.poke()
	}
	if p.stopped && p.l.Open() == 0 {
		select {
		case <-p.drained:
		default:
			close(p.drained)
		}
	}
}

// publish says what can be leased, and wakes a session that waits for it.
func (p *partition) publish(now time.Duration) {
	bits := p.l.ReadyPolicies(now)
	if !p.retry && bits != 0 {
		bits = 1 << p.bit
	}
	p.ready.Store(bits)
	p.g.hub.offer(bits)
}

func (p *partition) arm(now time.Duration) {
	due, ok := p.l.NextDue(now)
	if p.in.retryAt > now && (!ok || p.in.retryAt < due) {
		due, ok = p.in.retryAt, true
	}
	if ok {
		p.timer.Reset(max(0, min(due-now, time.Hour)))
	} else {
		p.timer.Stop()
	}
}

func (p *partition) account() {
	if is := int64(p.l.Bytes()) + p.in.bytes; is != p.held {
		p.e.budget.moved(p.held, is)
		p.e.m.bytes.Add(float64(is - p.held))
		p.held = is
	}
}

// effects does what the lane asks for.
func (p *partition) effects() {
	fx := &p.l.Effects
	if fx.Expired > 0 {
		p.e.m.expired.Add(float64(fx.Expired))
	}
	if fx.Overruns > 0 {
		p.e.m.overruns.Add(float64(fx.Overruns))
	}
	for _, f := range fx.Freed {
		p.e.freeLeases(f.Count)
		if s := p.g.session(f.Client); s != nil {
			s.freed(f.Count)
		}
	}
	if len(fx.Revoked) > 0 {
		p.e.m.revoked.Add(float64(len(fx.Revoked)))
		p.tellRevoked(fx.Revoked)
	}
	if len(fx.Dead) > 0 || len(fx.Park) > 0 {
		p.copies.dead = append(p.copies.dead, fx.Dead...)
		p.copies.park = append(p.copies.park, fx.Park...)
		p.writeCopies()
	}
	fx.Reset()
}

// tellRevoked makes the receipts again that no longer count, and tells their clients.
func (p *partition) tellRevoked(rs []lane.Revoked) {
	keys := p.e.snap.Current().ReceiptKeys
	if len(keys) == 0 {
		return
	}
	signer, err := receipt.NewSigner(receipt.Key{ID: keys[0].ID, Key: keys[0].Key})
	if err != nil {
		return // sessions that use it fail loudly
	}
	byClient := make(map[uint64][][]byte)
	heads := make(map[string][]byte)
	for _, r := range rs {
		s := p.g.session(r.Client)
		if s == nil {
			continue
		}
		if heads[s.app] == nil {
			if heads[s.app], err = p.head(s.app); err != nil {
				return
			}
		}
		byClient[r.Client] = append(byClient[r.Client], signer.Append(nil, heads[s.app], receipt.Lease{
			Offset: r.Lease.Offset, Serial: r.Lease.Serial, Attempt: uint32(r.Lease.Attempt), DeadlineMs: r.DeadlineMs,
		}))
	}
	for client, receipts := range byClient {
		if s := p.g.session(client); s != nil {
			s.push(Event{Revoked: receipts})
		}
	}
}

// lease grants messages to a session; in the lane's goroutine.
func (p *partition) lease(s *session, most, bytes int, deadline time.Time, out []lane.Leased) []lane.Leased {
	most = p.e.takeLeases(most)
	topics := s.topics
	if !p.retry {
		topics = topics >> p.bit & 1
	}
	out = p.l.Lease(p.e.clock(), lane.Request{
		Client: s.id, Max: most, MaxBytes: bytes, For: s.lease, DeadlineMs: deadline.UnixMilli(), Policies: topics,
	}, out)
	p.e.freeLeases(most - len(out))
	s.out.Add(int64(len(out)))
	return out
}

// place is where a delivered message stands, its origin for a parked copy.
func (p *partition) place(g *lane.Leased) (topic, cluster, partition string, offset int64) {
	if g.Origin == nil {
		return p.topic, p.m.cluster, p.name, g.Offset
	}
	return g.Origin.Topic, g.Origin.Cluster, g.Origin.Partition, g.Origin.Offset
}

// runOf makes a lane's run number one that is the lane's alone.
func (p *partition) runOf(n uint64) uint64 {
	if n == 0 {
		return 0
	}
	return p.runBase + n
}

// head is what all receipts of this lane for an app have in common.
func (p *partition) head(app string) ([]byte, error) {
	s := receipt.Scope{
		Epoch: p.epoch, Partition: p.id.Index, Node: p.e.node, Group: p.g.name, App: app,
		Cluster: p.m.cluster, Topic: string(p.id.Topic), Broker: p.id.Broker,
	}
	return s.Head()
}

// configure applies settings that changed; in the lane's goroutine.
func (p *partition) configure(sp *spec) {
	p.spec = sp
	cfg := p.laneConfig(sp)
	p.window = cfg.Window
	p.l.Configure(cfg)
	p.l.Pause(sp.paused)
}

// laneConfig is what the group's settings mean for this lane.
func (p *partition) laneConfig(sp *spec) lane.Config {
	cfg := lane.Config{
		Run: 1, Window: min(p.e.cfg.Window, ackmap.Window(p.m.caps.CommitMetadata)),
		NoMap: p.m.caps.CommitMetadata == 0, ParkAfter: p.m.parkAfter(),
	}
	if p.retry {
		for _, t := range sp.topics {
			cfg.Policies = append(cfg.Policies, policyOf(sp.settings[t]))
		}
		if len(cfg.Policies) == 0 {
			cfg.Policies = []lane.Policy{policyOf(snapshot.Settings{})}
		}
		return cfg
	}
	st := sp.settings[p.topic].WithDefaults()
	cfg.Mode, cfg.Run = modeOf(st.Order), st.Run
	cfg.Policies = []lane.Policy{policyOf(st)}
	return cfg
}

// attrs are the log fields of this lane, before others.
func (p *partition) attrs(more ...any) []any {
	return append([]any{"group", p.g.name, "cluster", p.m.cluster, "topic", string(p.id.Topic), "partition", p.name, "epoch", p.epoch}, more...)
}
