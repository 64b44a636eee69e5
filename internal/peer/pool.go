package peer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Time limits of calls to neighbours.
const (
	settleTimeout = 5 * time.Second
	// pullGrace is what a pull may take beyond the time that it waits for a message.
	pullGrace     = 3 * time.Second
	statusTimeout = 3 * time.Second
)

// Pool calls other nodes by name; the snapshot says where they are. All methods
// may be called by any goroutine.
type Pool struct {
	dial    Dial
	snaps   *snapshot.Holder
	metrics *metrics

	mu     sync.Mutex                  // guards all below
	conns  map[string]*grpc.ClientConn // by address
	closed bool
}

// NewPool makes a pool without connections.
func NewPool(dial Dial, snaps *snapshot.Holder, reg prometheus.Registerer) *Pool {
	return &Pool{dial: dial, snaps: snaps, metrics: newMetrics(reg), conns: map[string]*grpc.ClientConn{}}
}

// client gives the stub of a node. Connections to addresses that no node has any more are closed on the way.
func (p *Pool) client(node string) (nodev1.PeerServiceClient, error) {
	nodes := p.snaps.Current().Nodes
	n := nodes[node]
	if n == nil || n.GRPC == "" {
		return nil, fault.New(fault.Unavailable, "node %q is not known; it left, or the receipt is of another installation", node)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fault.New(fault.GoAway, "this node is stopping")
	}
	if c := p.conns[n.GRPC]; c != nil {
		return nodev1.NewPeerServiceClient(c), nil
	}
	used := map[string]bool{}
	for _, n := range nodes {
		used[n.GRPC] = true
	}
	for addr, c := range p.conns {
		if !used[addr] {
			_ = c.Close() // nothing to do about it
			delete(p.conns, addr)
		}
	}
	c, err := p.dial.connect(n.GRPC)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "node %q at %s cannot be dialled", node, n.GRPC)
	}
	p.conns[n.GRPC] = c
	return nodev1.NewPeerServiceClient(c), nil
}

// count counts a call and gives its error as a fault.
func (p *Pool) count(call, node string, err error) error {
	if err == nil {
		p.metrics.calls.WithLabelValues(call, "ok").Inc()
		return nil
	}
	p.metrics.calls.WithLabelValues(call, "error").Inc()
	return faultOfCall(err, node)
}

// Settle hands acks to the node that owns their leases, one result (nil:
// recorded) per ack. It never fails as a whole: where the node's answer is
// missing each result is an error with MaybeSent.
func (p *Pool) Settle(ctx context.Context, node, app, group string, acks []*sluicev1.Ack) []*fault.Error {
	ctx, cancel := bounded(ctx, settleTimeout)
	defer cancel()
	client, err := p.client(node)
	if err != nil {
		return all(err, len(acks)) // certainly not sent
	}
	res, err := client.Settle(p.dial.proven(ctx), &nodev1.SettleRequest{App: app, Group: group, Acks: acks})
	if err := p.count("settle", node, err); err != nil {
		return all(err, len(acks))
	}
	if len(res.GetResults()) != len(acks) {
		e := fault.New(fault.Internal, "node %s answered %d acks with %d results", node, len(acks), len(res.GetResults()))
		e.MaybeSent = true
		return all(e, len(acks))
	}
	results := make([]*fault.Error, len(acks))
	for i, r := range res.GetResults() {
		results[i] = FaultOf(r.GetError())
	}
	return results
}

func all(err error, n int) []*fault.Error {
	var e *fault.Error
	if !errors.As(err, &e) {
		e = fault.Wrap(err, fault.Unavailable, "the owner cannot be asked")
	}
	results := make([]*fault.Error, n)
	for i := range results {
		results[i] = e
	}
	return results
}

// Pull leases messages of another node's lanes for a client of this one. It ends within the request's wait and some seconds.
func (p *Pool) Pull(ctx context.Context, node, app string, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
	ctx, cancel := bounded(ctx, time.Duration(req.GetWaitMs())*time.Millisecond+pullGrace)
	defer cancel()
	client, err := p.client(node)
	if err != nil {
		return nil, err
	}
	res, err := client.Pull(p.dial.proven(ctx), &nodev1.PullRequest{App: app, Pull: req})
	if err := p.count("pull", node, err); err != nil {
		return nil, err
	}
	return res.GetPull(), nil
}

// GroupStatus asks what a node holds of a group.
func (p *Pool) GroupStatus(ctx context.Context, node, group string) (GroupStatus, error) {
	ctx, cancel := bounded(ctx, statusTimeout)
	defer cancel()
	client, err := p.client(node)
	if err != nil {
		return GroupStatus{}, err
	}
	res, err := client.GroupStatus(p.dial.proven(ctx), &nodev1.GroupStatusRequest{Group: group})
	if err := p.count("status", node, err); err != nil {
		return GroupStatus{}, err
	}
	st := GroupStatus{Clients: int(res.GetClients())}
	for _, l := range res.GetLanes() {
		st.Lanes = append(st.Lanes, LaneStatus{
			Topic: l.GetTopic(), Cluster: l.GetCluster(), Partition: l.GetPartition(),
			Committed: l.GetCommitted(), Fetched: l.GetFetched(), HighWatermark: l.GetHighWatermark(),
			Leased: int(l.GetLeased()), Buffered: int(l.GetBuffered()), Window: int(l.GetWindow()),
			Epoch: l.GetEpoch(), Blocked: l.GetBlocked(),
		})
	}
	return st, nil
}

// Close closes all connections; calls fail from then on.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var err error
	for _, c := range p.conns {
		err = errors.Join(err, c.Close())
	}
	p.conns = nil
	return err
}
