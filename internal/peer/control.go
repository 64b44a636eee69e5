package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Rhythm of a joined node. Three missed answers end the stream: the control
// plane counts the node as dead at about the same time.
const (
	BeatEvery     = time.Second
	silenceLimit  = 3 * time.Second
	ensureTimeout = 30 * time.Second
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 2 * time.Second
)

// Control follows the control plane for a node of another process: it keeps the
// node joined at one of the control nodes and puts their snapshots into the
// Holder. While none answers, the node goes on with the snapshot that it has.
type Control struct {
	dial    Dial
	addrs   []string
	self    func() snapshot.Node
	snaps   *snapshot.Holder
	log     *slog.Logger
	metrics *controlMetrics

	joined atomic.Bool
	at     atomic.Int64 // index of the address that worked last

	mu    sync.Mutex // guards conns
	conns []*grpc.ClientConn
}

// NewControl makes a client of the control nodes at addrs. self is asked at
// every beat; its Draining tells the control plane that the node is stopping.
func NewControl(dial Dial, addrs []string, self func() snapshot.Node, snaps *snapshot.Holder, log *slog.Logger, reg prometheus.Registerer) (*Control, error) {
	if len(addrs) == 0 {
		return nil, errors.New("no address of a control node; give --control")
	}
	return &Control{dial: dial, addrs: addrs, self: self, snaps: snaps, log: log, metrics: newControlMetrics(reg), conns: make([]*grpc.ClientConn, len(addrs))}, nil
}

// Joined tells whether a control node answers now.
func (c *Control) Joined() bool { return c.joined.Load() }

// Close closes the connections; call it after Run ended.
func (c *Control) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for i, conn := range c.conns {
		if conn != nil {
			err = errors.Join(err, conn.Close())
			c.conns[i] = nil
		}
	}
	return err
}

func (c *Control) client(i int) (nodev1.ControlServiceClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[i] == nil {
		conn, err := c.dial.connect(c.addrs[i])
		if err != nil {
			return nil, err
		}
		c.conns[i] = conn
	}
	return nodev1.NewControlServiceClient(c.conns[i]), nil
}

// Run keeps the node joined until ctx ends, then leaves. Run it in a goroutine of its own.
func (c *Control) Run(ctx context.Context) {
	wait := minBackoff
	for try := 0; ctx.Err() == nil; try++ {
		i := (int(c.at.Load()) + try) % len(c.addrs)
		heard, err := c.join(ctx, i)
		c.setJoined(false)
		if ctx.Err() != nil {
			return
		}
		if heard {
			try, wait = -1, minBackoff // it worked: begin with the same address
		}
		c.metrics.lost.Inc()
		c.log.Warn("control plane lost; the node goes on with what it knows", "control", c.addrs[i], "snapshot", c.snaps.Current().Version, "err", err)
		// Jitter keeps a thousand nodes from coming back in the same instant.
		pause := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
		wait = min(2*wait, maxBackoff)
	}
}

func (c *Control) setJoined(on bool) {
	if c.joined.Swap(on) != on && on {
		c.log.Info("joined the control plane", "control", c.addrs[c.at.Load()])
	}
	c.metrics.joined.Set(map[bool]float64{true: 1}[on])
}

// join holds one stream. heard: the control node answered at least once.
func (c *Control) join(ctx context.Context, i int) (heard bool, err error) {
	client, err := c.client(i)
	if err != nil {
		return false, err
	}
	// The stream outlives ctx for a moment, so that the node can leave properly.
	stop, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stream, err := client.Join(c.dial.proven(stop))
	if err != nil {
		return false, err
	}
	answers := make(chan error, 1) // one per answer; the receiver ends with the stream
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			err := c.receive(stream)
			select {
			case answers <- err:
			case <-stop.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { cancel(nil); <-received }()
	if err := c.beat(stream); err != nil {
		return false, ended(answers)
	}
	tick := time.NewTicker(BeatEvery)
	defer tick.Stop()
	silence := time.NewTimer(silenceLimit)
	defer silence.Stop()
	for {
		select {
		case err := <-answers:
			if err != nil {
				return heard, err
			}
			heard = true
			c.at.Store(int64(i))
			c.setJoined(true)
			silence.Reset(silenceLimit)
		case <-tick.C:
			if err := c.beat(stream); err != nil {
				return heard, ended(answers)
			}
		case <-silence.C:
			return heard, fmt.Errorf("no answer for %v", silenceLimit)
		case <-ctx.Done():
			return heard, c.leave(stream, answers)
		}
	}
}

// ended is why a stream ended whose Send failed with io.EOF: the receiver has the status.
func ended(answers <-chan error) error {
	for err := range answers {
		if err != nil {
			return err
		}
	}
	return nil
}

// leave says goodbye and waits a moment for the end of the stream, so that the others take over at once.
func (c *Control) leave(stream grpc.BidiStreamingClient[nodev1.JoinRequest, nodev1.JoinResponse], answers <-chan error) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	wait := time.NewTimer(BeatEvery)
	defer wait.Stop()
	for {
		select {
		case err := <-answers:
			if err != nil {
				return nil //nolint:nilerr // the end that was waited for
			}
		case <-wait.C:
			return nil
		}
	}
}

func (c *Control) beat(stream grpc.BidiStreamingClient[nodev1.JoinRequest, nodev1.JoinResponse]) error {
	n := c.self()
	return stream.Send(&nodev1.JoinRequest{Node: n.ToProto().GetNode(), Draining: n.Draining, Build: n.Build, SnapshotVersion: c.snaps.Current().Version})
}

func (c *Control) receive(stream grpc.BidiStreamingClient[nodev1.JoinRequest, nodev1.JoinResponse]) error {
	res, err := stream.Recv()
	if err != nil {
		return err
	}
	return c.take(res.GetSnapshot())
}

// take puts a snapshot into the Holder. An older one is no error here: answers overtake one another.
func (c *Control) take(p *nodev1.Snapshot) error {
	if p == nil {
		return nil
	}
	have := c.snaps.Current()
	if have.StoreID == p.GetStoreId() && p.GetVersion() <= have.Version {
		return nil
	}
	s, err := snapshot.FromProto(p)
	if err != nil {
		return err
	}
	err = c.snaps.Set(s)
	if err != nil && c.snaps.Current().StoreID == s.StoreID && c.snaps.Current().Version >= s.Version {
		return nil
	}
	return err
}

// EnsureTopic makes a topic known that a first use may create; afterwards the Holder knows it.
func (c *Control) EnsureTopic(ctx context.Context, topic string) error {
	return c.ensure(ctx, func(ctx context.Context, client nodev1.ControlServiceClient) (*nodev1.Snapshot, error) {
		res, err := client.EnsureTopic(ctx, &nodev1.EnsureTopicRequest{Topic: topic})
		return res.GetSnapshot(), err
	})
}

// EnsureSubscription makes or checks a group's subscriptions; afterwards the Holder knows them.
func (c *Control) EnsureSubscription(ctx context.Context, group string, settings map[string]snapshot.Settings) error {
	req := &nodev1.EnsureSubscriptionRequest{Group: group}
	for topic, s := range settings {
		req.Subscriptions = append(req.Subscriptions, s.ToProto(topic))
	}
	return c.ensure(ctx, func(ctx context.Context, client nodev1.ControlServiceClient) (*nodev1.Snapshot, error) {
		res, err := client.EnsureSubscription(ctx, req)
		return res.GetSnapshot(), err
	})
}

// ensure asks the control nodes one after the other, beginning with the one
// that worked last. Both calls may be repeated, so a lost answer is no reason to
// stop. Nobody there: fault.ControlUnavailable.
func (c *Control) ensure(ctx context.Context, call func(context.Context, nodev1.ControlServiceClient) (*nodev1.Snapshot, error)) error {
	ctx, cancel := bounded(ctx, ensureTimeout)
	defer cancel()
	var last error
	for try := range c.addrs {
		client, err := c.client((int(c.at.Load()) + try) % len(c.addrs))
		if err != nil {
			last = err
			continue
		}
		snap, err := call(c.dial.proven(ctx), client)
		if err == nil {
			return c.take(snap)
		}
		f := faultOfCall(err, c.addrs[(int(c.at.Load())+try)%len(c.addrs)])
		// Only a control node that said nothing lets another one be asked.
		if code := status.Code(err); code != codes.Unavailable || f.Reason != fault.Unavailable || !f.MaybeSent {
			return f
		}
		last = err
	}
	e := fault.Wrap(last, fault.ControlUnavailable, "the control plane does not answer, and this needs it; what is known already goes on without it")
	e.RetryAfter = maxBackoff
	return e
}
