package sluice

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// clientName goes with every call, so that operators see what speaks to them.
const clientName = "go/1"

const (
	// avoidFor is how long a node that failed is asked last.
	avoidFor = 5 * time.Second
	// probeTimeout is how long a live node may take to answer the question for the nodes.
	probeTimeout = 2 * time.Second
)

// Roles of nodes, as in sluicev1.Node.
const (
	roleProducer = "producer"
	roleConsumer = "consumer"
)

// nodes knows the nodes, keeps a connection to each that is in use, and chooses among them.
type nodes struct {
	opts  *options
	seeds []string

	stop   context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
	mu     sync.Mutex // guards the rest
	known  []*sluicev1.Node
	conns  map[string]*grpc.ClientConn
	bad    map[string]time.Time // until when a node is asked last
	closed bool
}

func newNodes(seeds []string, o *options) *nodes {
	ctx, stop := context.WithCancel(context.Background())
	return &nodes{
		opts: o, seeds: seeds, ctx: ctx, stop: stop,
		conns: map[string]*grpc.ClientConn{}, bad: map[string]time.Time{},
	}
}

func (n *nodes) start(every time.Duration) {
	n.wg.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-n.ctx.Done():
				return
			case <-t.C:
				ctx, cancel := context.WithTimeout(n.ctx, probeTimeout)
				if err := n.refresh(ctx); err != nil && n.ctx.Err() == nil {
					n.opts.log.Warn("no node answered; keeping the known ones", "err", err)
				}
				cancel()
			}
		}
	})
}

func (n *nodes) close() {
	n.stop()
	n.wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, cc := range n.conns {
		_ = cc.Close() // fails only where it is closed already
	}
	clear(n.conns)
}

// discover asks all candidates at once for the nodes and takes the first answer.
func (n *nodes) discover(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		nodes []*sluicev1.Node
		err   error
	}
	candidates := n.candidates("", "")
	answers := make(chan answer, len(candidates))
	for _, addr := range candidates {
		n.wg.Go(func() {
			ns, err := n.ask(ctx, addr, "")
			answers <- answer{ns, err}
		})
	}
	var errs []error
	for range candidates {
		a := <-answers
		if a.err == nil {
			n.learn(a.nodes)
			return nil
		}
		errs = append(errs, a.err)
	}
	var e *Error
	if len(errs) == 1 && errors.As(errs[0], &e) {
		return e
	}
	first := errs[0]
	for _, err := range errs {
		if errors.As(err, &e) && hopeless(e) {
			first = e
		}
	}
	if errors.As(first, &e) && hopeless(e) {
		return e
	}
	return &Error{Reason: ReasonUnavailable, Message: "no node answered; check the addresses and that Sluice runs", Cause: errors.Join(errs...)}
}

// refresh asks one candidate after the other for the nodes.
func (n *nodes) refresh(ctx context.Context) (err error) {
	for _, addr := range n.candidates("", "") {
		var known []*sluicev1.Node
		if known, err = n.ask(ctx, addr, ""); err == nil {
			n.learn(known)
			return nil
		}
	}
	return err
}

// ask asks one node for the nodes, of a group or all.
func (n *nodes) ask(ctx context.Context, addr, group string) ([]*sluicev1.Node, error) {
	cc, err := n.conn(addr)
	if err != nil {
		return nil, err
	}
	resp, err := sluicev1.NewSessionServiceClient(cc).Nodes(ctx, &sluicev1.NodesRequest{Group: group})
	if err != nil {
		return nil, fromCall(addr, err)
	}
	return resp.GetNodes(), nil
}

// learn takes a list of all nodes. Connections to others close by themselves when they have been idle for a while.
func (n *nodes) learn(known []*sluicev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = known
	now := time.Now()
	for addr, until := range n.bad {
		if until.Before(now) {
			delete(n.bad, addr)
		}
	}
}

// conn is the connection to a node, made on first use.
func (n *nodes) conn(addr string) (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed()
	}
	if cc := n.conns[addr]; cc != nil {
		return cc, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, n.dialOptions()...)
	if err != nil {
		return nil, &Error{Reason: ReasonInvalidArgument, Message: "the address " + addr + " cannot be used", Cause: err}
	}
	n.conns[addr] = cc
	return cc, nil
}

func (n *nodes) dialOptions() []grpc.DialOption {
	creds := insecure.NewCredentials()
	if n.opts.tls != nil {
		creds = credentials.NewTLS(n.opts.tls)
	}
	o := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(perCall{token: n.opts.token}),
		// Measured: large windows and buffers take 10 to 20 % less CPU on streams of batches.
		grpc.WithInitialWindowSize(4 << 20), grpc.WithInitialConnWindowSize(16 << 20),
		grpc.WithReadBufferSize(128 << 10), grpc.WithWriteBufferSize(128 << 10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
		// Retries are this package's: the library's would repeat without telling.
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(5 * time.Minute),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		// Finds half-open connections; nodes allow a ping every 5 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
	}
	return append(o, n.opts.dial...)
}

// perCall adds the token and the client's name to every call.
type perCall struct{ token string }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (p perCall) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	md := map[string]string{"sluice-client": clientName}
	if p.token != "" {
		md["authorization"] = "Bearer " + p.token
	}
	return md, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials; whoever gives a token without TLS chose so.
func (p perCall) RequireTransportSecurity() bool { return false }

// candidates lists addresses to try, best first: known nodes of the role in random order, then the seeds, then what
// failed lately or should be left. Seeds stay in the list for good, as the way back after every node got a new address.
func (n *nodes) candidates(role, leave string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var good, last []string
	add := func(addr string) {
		if addr == "" || slices.Contains(good, addr) || slices.Contains(last, addr) {
			return
		}
		if addr == leave || n.bad[addr].After(time.Now()) {
			last = append(last, addr)
		} else {
			good = append(good, addr)
		}
	}
	for _, i := range rand.Perm(len(n.known)) {
		node := n.known[i]
		if role == "" || len(node.GetRoles()) == 0 || slices.Contains(node.GetRoles(), role) {
			add(node.GetGrpc())
		}
	}
	for _, i := range rand.Perm(len(n.seeds)) {
		add(n.seeds[i])
	}
	return append(good, last...)
}

// pick is the best candidate.
func (n *nodes) pick(role, leave string) string { return n.candidates(role, leave)[0] }

// avoid asks a node last for a while.
func (n *nodes) avoid(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bad[addr] = time.Now().Add(avoidFor)
}

// probe asks whether a node is alive. A node that does not answer is avoided, and its connection closed, so that
// everything that waits for it goes on elsewhere.
func (n *nodes) probe(addr string) {
	ctx, cancel := context.WithTimeout(n.ctx, probeTimeout)
	defer cancel()
	_, err := n.ask(ctx, addr, "")
	var e *Error
	if err == nil || n.ctx.Err() != nil || (errors.As(err, &e) && e.Reason != ReasonDeadlineExceeded && e.Reason != ReasonUnavailable) {
		return
	}
	n.opts.log.Warn("node does not answer; going on elsewhere", "node", addr, "err", err)
	n.avoid(addr)
	n.mu.Lock()
	cc := n.conns[addr]
	delete(n.conns, addr)
	n.mu.Unlock()
	if cc != nil {
		_ = cc.Close() // fails only where it is closed already
	}
}
