package sluicetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// partitions of every topic.
const partitions = 4

// Config says what the fake looks like.
type Config struct {
	// Nodes is how many nodes there are; 0: one.
	Nodes int
	// Start is where the clock begins; zero: 2026-01-01 UTC.
	Start time.Time
}

// Server is the fake. Its methods may be called from any goroutine.
type Server struct {
	nodes []*node

	mu       sync.Mutex // guards the rest
	now      time.Time
	topics   map[string][]*record
	ends     map[string]int64 // the next offset, by topic/partition
	groups   map[string]*group
	failures []*sluicev1.PublishResult // for the messages that are published next
	cut      int                       // publish requests that are stored, but cut off before their answer
	change   chan struct{}             // closed and replaced when something changed
	runs     uint64
	wg       sync.WaitGroup
}

// node is one fake node.
type node struct {
	sluicev1.UnimplementedProducerServiceServer
	sluicev1.UnimplementedConsumerServiceServer
	sluicev1.UnimplementedSessionServiceServer

	s     *Server
	index int
	addr  string

	// guarded by Server.mu
	server   *grpc.Server
	listener *bufconn.Listener // nil: stopped
	conns    map[net.Conn]struct{}
	leaving  bool
}

// New starts a fake. Close it.
func New(cfg Config) *Server {
	if cfg.Start.IsZero() {
		cfg.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	s := &Server{now: cfg.Start, topics: map[string][]*record{}, ends: map[string]int64{}, groups: map[string]*group{}, change: make(chan struct{})}
	for i := range max(cfg.Nodes, 1) {
		s.nodes = append(s.nodes, &node{s: s, index: i, addr: fmt.Sprintf("node-%d.test:7600", i), conns: map[net.Conn]struct{}{}})
		s.StartNode(i)
	}
	return s
}

// Close stops every node. Close clients first.
func (s *Server) Close() {
	for i := range s.nodes {
		s.StopNode(i)
	}
	s.wg.Wait()
}

// Addrs are the nodes' addresses, to connect to with Options.
func (s *Server) Addrs() string {
	all := ""
	for _, n := range s.nodes {
		if all != "" {
			all += ","
		}
		all += n.addr
	}
	return all
}

// Options let a client reach the fake.
func (s *Server) Options() []sluice.Option {
	return []sluice.Option{sluice.DialOptions(grpc.WithContextDialer(s.dial))}
}

// Connect connects a client to the fake.
func (s *Server) Connect(ctx context.Context, opts ...sluice.Option) (*sluice.Client, error) {
	return sluice.Connect(ctx, s.Addrs(), append(s.Options(), opts...)...)
}

func (s *Server) dial(ctx context.Context, addr string) (net.Conn, error) {
	for _, n := range s.nodes {
		if n.addr != addr {
			continue
		}
		s.mu.Lock()
		l := n.listener
		s.mu.Unlock()
		if l == nil {
			return nil, errors.New("connection refused by the stopped node " + addr)
		}
		c, err := l.DialContext(ctx)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		n.conns[c] = struct{}{}
		s.mu.Unlock()
		return c, nil
	}
	return nil, errors.New("there is no node at " + addr)
}

// StartNode lets a stopped node serve again.
func (s *Server) StartNode(i int) {
	n := s.nodes[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.listener != nil {
		return
	}
	n.leaving = false
	n.listener = bufconn.Listen(1 << 20)
	n.server = grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	sluicev1.RegisterProducerServiceServer(n.server, n)
	sluicev1.RegisterConsumerServiceServer(n.server, n)
	sluicev1.RegisterSessionServiceServer(n.server, n)
	server, listener := n.server, n.listener
	s.wg.Go(func() { _ = server.Serve(listener) }) // ends with Stop
	s.changed()
}

// StopNode kills a node: its connections break, leases of its clients stay.
func (s *Server) StopNode(i int) {
	n := s.nodes[i]
	s.mu.Lock()
	server := n.server
	n.listener, n.server = nil, nil
	clear(n.conns)
	s.changed()
	s.mu.Unlock()
	if server != nil {
		server.Stop()
	}
}

// Disconnect breaks the connections to a node, which goes on serving.
func (s *Server) Disconnect(i int) {
	s.mu.Lock()
	var conns []net.Conn
	for c := range s.nodes[i].conns {
		conns = append(conns, c)
	}
	clear(s.nodes[i].conns)
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // fails only where it is closed already
	}
}

// GoAway makes a node ask its clients to leave; it takes no new streams, and its partitions go to the others.
func (s *Server) GoAway(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes[i].leaving = true
	s.changed()
}

// Advance moves the clock: leases whose time has come end, released messages whose time has come can be delivered.
func (s *Server) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
	for _, g := range s.groups {
		for _, e := range g.entries {
			if e.state == leased && !e.until.After(s.now) {
				e.expire(s.now)
			}
		}
	}
	s.changed()
}

// ExpireLeases ends every lease now.
func (s *Server) ExpireLeases() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		for _, e := range g.entries {
			if e.state == leased {
				e.expire(s.now)
			}
		}
	}
	s.changed()
}

// changed wakes streams. The mutex is held.
func (s *Server) changed() {
	close(s.change)
	s.change = make(chan struct{})
}

// live lists the nodes that serve. The mutex is held.
func (s *Server) live() []*node {
	var live []*node
	for _, n := range s.nodes {
		if n.listener != nil && !n.leaving {
			live = append(live, n)
		}
	}
	return live
}

// Nodes implements sluicev1.SessionServiceServer.
func (n *node) Nodes(context.Context, *sluicev1.NodesRequest) (*sluicev1.NodesResponse, error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return &sluicev1.NodesResponse{Nodes: n.s.describe()}, nil
}

// describe lists the live nodes as clients see them. The mutex is held.
func (s *Server) describe() []*sluicev1.Node {
	var nodes []*sluicev1.Node
	for _, n := range s.live() {
		nodes = append(nodes, &sluicev1.Node{Name: fmt.Sprintf("node-%d", n.index), Grpc: n.addr, Roles: []string{"producer", "consumer", "control"}})
	}
	return nodes
}
