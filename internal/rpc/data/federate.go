package data

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// A client behind a plain load balancer asks any node; the lanes of its group live on several. The asked node asks them
// all at once, each for its share of the messages, and answers with what comes first:
//
//   - The shares add up to what was asked for, so that in the common case nothing has to be given back.
//   - After the first messages it waits a moment (gatherTime) for the others, then answers.
//   - Calls to other nodes are never cancelled: a node could have leased messages whose answer is then lost, and they would
//     wait for the end of their lease and count an attempt. They wait in slices of Config.RemoteSlice instead, and
//     what comes after the answer is given back by its receipts, unseen.
//   - A node that is dead or slow delays its own part alone. Only when every node failed does the call fail.

const (
	// gatherTime is how long the first messages wait for those of the other nodes.
	gatherTime = 10 * time.Millisecond
	// remoteGrace is how much longer than a call's wait an answer of another node is waited for.
	remoteGrace = 500 * time.Millisecond
	// remoteTimeout ends a call to a node that does not answer at all.
	remoteTimeout = 5 * time.Second
	// remoteRetry is the pause before a node that failed is asked again within the same pull.
	remoteRetry = 200 * time.Millisecond
)

// gather collects the answers of the nodes for one pull.
type gather struct {
	want    int
	changed chan struct{} // to the collector: messages, or a node that has finished

	mu      sync.Mutex // guards what follows
	got     []*sluicev1.Delivery
	running int
	failed  int
	err     error
	over    chan struct{} // closed with over: nothing is taken any more
	closed  bool
}

// offer takes what is still wanted and returns the rest, which the caller gives back.
func (g *gather) offer(ds []*sluicev1.Delivery) []*sluicev1.Delivery {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ds
	}
	n := min(len(ds), g.want-len(g.got))
	g.got = append(g.got, ds[:n]...)
	if n > 0 {
		signal(g.changed)
	}
	return ds[n:]
}

func (g *gather) finish(err error) {
	g.mu.Lock()
	g.running--
	if err != nil {
		g.failed++
		g.err = err
	}
	g.mu.Unlock()
	signal(g.changed)
}

// state is how many messages there are, and whether more can come.
func (g *gather) state() (got int, more bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.got), g.running > 0 && len(g.got) < g.want
}

// close ends the gathering and takes the result.
func (g *gather) close(nodes int) ([]*sluicev1.Delivery, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	close(g.over)
	if len(g.got) == 0 && g.failed == nodes {
		return nil, g.err
	}
	return g.got, nil
}

// pullAll leases from all nodes that serve the group.
func (s *Service) pullAll(ctx context.Context, p pull) ([]*sluicev1.Delivery, error) {
	local, remote := s.targets(p.sub.Group)
	if len(remote) == 0 {
		return s.pullHere(ctx, p)
	}
	shares := split(p.max, len(remote), local)
	nodes := len(remote)
	g := &gather{want: p.max, changed: make(chan struct{}, 1), over: make(chan struct{}), running: nodes}
	here, cancel := context.WithCancel(ctx)
	if local {
		nodes++
		g.running++
		mine := p
		mine.max = shares[len(remote)]
		s.done.Go(func() {
			ds, err := s.pullHere(here, mine)
			s.giveBack(ctx, p.who, p.sub.Group, "late", g.offer(ds))
			g.finish(err)
		})
	}
	for i, node := range remote {
		s.done.Go(func() { g.finish(s.pullThere(ctx, g, p, node, shares[i])) })
	}
	g.await(ctx, p.wait)
	ds, err := g.close(nodes)
	cancel() // after close: what the lanes here leased meanwhile is late, and goes back
	return ds, err
}

// targets are the nodes to ask. A node alone, or one that does not know the group's nodes, asks itself.
func (s *Service) targets(group string) (local bool, remote []string) {
	if s.deps.Remote == nil {
		return true, nil
	}
	for _, n := range s.deps.Consumer.GroupNodes(group) {
		if n.Name == s.deps.Node {
			local = true
		} else {
			remote = append(remote, n.Name)
		}
	}
	return local || len(remote) == 0, remote
}

// split shares n among the remote nodes and, last, this one; each gets at least 1, this one (or the first) what is left over.
func split(n, remote int, local bool) []int {
	parts := remote
	if local {
		parts++
	}
	shares := make([]int, parts)
	for i := range shares {
		shares[i] = max(1, n/parts)
	}
	if rest := n - parts*(n/parts); n >= parts {
		if local {
			shares[parts-1] += rest
		} else {
			shares[0] += rest
		}
	}
	return shares
}

// await returns when there is enough, when a moment has passed since the first messages, when no node is left to wait for,
// or when the time is over.
func (g *gather) await(ctx context.Context, wait time.Duration) {
	end := time.NewTimer(wait + remoteGrace)
	defer end.Stop()
	var moment <-chan time.Time
	for {
		got, more := g.state()
		if !more {
			return
		}
		if got > 0 && moment == nil {
			t := time.NewTimer(gatherTime)
			defer t.Stop()
			moment = t.C
		}
		select {
		case <-g.changed:
		case <-moment:
			return
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pullThere asks one node, in slices, until it has messages, the time is over or nobody waits any more.
func (s *Service) pullThere(ctx context.Context, g *gather, p pull, node string, share int) error {
	end := s.deps.Now().Add(p.wait)
	req := &sluicev1.PullRequest{
		Subscription: proto.CloneOf(p.req.GetSubscription()), Client: p.client, MaxMessages: uint32(share), //nolint:gosec // at most maxMessages
	}
	for {
		left := max(0, end.Sub(s.deps.Now()))
		slice := min(left, s.cfg.RemoteSlice)
		req.WaitMs = uint32(slice.Milliseconds()) //nolint:gosec // at most maxWait
		resp, err := s.callRemote(ctx, node, p, req, slice)
		if ds := resp.GetMessages(); len(ds) > 0 {
			s.metrics.remote.WithLabelValues("messages").Inc()
			s.giveBack(ctx, p.who, p.sub.Group, "late", g.offer(ds))
			return nil
		}
		pause := time.Duration(0)
		if err != nil {
			s.metrics.remote.WithLabelValues("failed").Inc()
			pause = remoteRetry
		} else {
			s.metrics.remote.WithLabelValues("empty").Inc()
		}
		if end.Sub(s.deps.Now()) <= pause {
			return err
		}
		wait := time.NewTimer(pause)
		select {
		case <-g.over:
			wait.Stop()
			return err
		case <-s.base.Done():
			wait.Stop()
			return err
		case <-wait.C:
		}
		select {
		case <-g.over:
			return err
		default:
		}
	}
}

// callRemote lives longer than the client's call, with its values, and ends with the service.
func (s *Service) callRemote(ctx context.Context, node string, p pull, req *sluicev1.PullRequest, slice time.Duration) (*sluicev1.PullResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), slice+remoteTimeout)
	defer cancel()
	defer context.AfterFunc(s.base, cancel)()
	return s.deps.Remote.Pull(ctx, node, p.who.App, req)
}
