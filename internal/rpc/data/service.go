package data

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Limits of one request; reliability asks for them before anything is allocated.
const (
	maxMessages = 1_000
	maxAcks     = 10_000
	maxTimeout  = 60 * time.Second
	maxWait     = 30 * time.Second
	maxLease    = 12 * time.Hour
	minLease    = time.Second
	maxInFlight = 10_000
	maxCause    = 1 << 10
	// frameBytes and frameMessages bound a frame of deliveries: a client's default receive limit is 4 MiB.
	frameBytes    = 1 << 20
	frameMessages = 100
	// pullBytes bounds the answer of one pull, so that it fits a client's default receive limit too.
	pullBytes = 3 << 20
)

// Config has what may be tuned; start from DefaultConfig.
type Config struct {
	// StreamWindowBytes bounds what one publish stream has unanswered; its reader waits beyond.
	StreamWindowBytes int
	// StreamWindowRequests bounds it in batches.
	StreamWindowRequests int
	// SessionIdle is how long the session of a named pull client is kept after its last call.
	SessionIdle time.Duration
	// MaxSessions bounds the sessions that are kept.
	MaxSessions int
	// RemoteSlice is how long one call to another node waits; a longer wait is several calls, so
	// that an answer that nobody waits for any more comes, and is given back, within that time.
	RemoteSlice time.Duration
}

// DefaultConfig is what a node uses.
func DefaultConfig() Config {
	return Config{
		StreamWindowBytes: 16 << 20, StreamWindowRequests: 1_024, SessionIdle: 30 * time.Second, MaxSessions: 10_000, RemoteSlice: time.Second,
	}
}

// Snapshots gives the newest snapshot; snapshot.Holder does. Nil before the first one.
type Snapshots interface {
	Current() *snapshot.Snapshot
}

// RemotePuller asks another node for messages of its own lanes; node wires it to peer.
type RemotePuller interface {
	// Pull must end within the request's wait time and a few seconds.
	Pull(ctx context.Context, node, app string, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error)
}

// Deps are what the service needs of the node. Publisher and Consumer are nil where the node lacks the role.
type Deps struct {
	Publisher publish.Publisher
	Consumer  consume.Consumer
	// Remote is nil for a node alone.
	Remote    RemotePuller
	Snapshots Snapshots
	// Node is this node's name in the snapshot.
	Node       string
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Now is the wall clock; nil: time.Now.
	Now func() time.Time
}

// Service is the data plane of a node. All methods may be called at once.
type Service struct {
	sluicev1.UnimplementedProducerServiceServer
	sluicev1.UnimplementedConsumerServiceServer
	sluicev1.UnimplementedSessionServiceServer

	cfg     Config
	deps    Deps
	server  *rpc.Server
	faults  *rpc.Faults
	metrics *metrics
	pulls   *sessions

	base context.Context // ends with Close: for what outlives its call
	stop context.CancelFunc
	done sync.WaitGroup
}

// New makes the service and registers it with the server: three gRPC services and the HTTP paths of cli.md.
func New(cfg Config, server *rpc.Server, deps Deps) (*Service, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Service{cfg: cfg, deps: deps, server: server, faults: server.Faults(), metrics: newMetrics(deps.Registerer)}
	s.base, s.stop = context.WithCancel(context.Background())
	s.pulls = newSessions(cfg.SessionIdle, cfg.MaxSessions, s.metrics)
	if err := s.register(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Service) register() error {
	if err := s.server.Register(&sluicev1.ProducerService_ServiceDesc, s, map[string]rpc.Right{
		"Publish": rpc.Produce, "PublishStream": rpc.Produce,
	}); err != nil {
		return err
	}
	if err := s.server.Register(&sluicev1.ConsumerService_ServiceDesc, s, map[string]rpc.Right{
		"Pull": rpc.Consume, "Ack": rpc.Consume, "Consume": rpc.Consume,
	}); err != nil {
		return err
	}
	if err := s.server.Register(&sluicev1.SessionService_ServiceDesc, s, map[string]rpc.Right{"Nodes": rpc.Authenticated}); err != nil {
		return err
	}
	s.registerHTTP()
	return nil
}

// Close ends what outlives calls (sessions of pull clients, late answers of other nodes) and waits for the goroutines
// of streams; call it after the server has stopped.
func (s *Service) Close() {
	s.stop()
	s.pulls.close()
	s.done.Wait()
}

func (s *Service) publisher() (publish.Publisher, error) {
	if s.deps.Publisher == nil {
		return nil, fault.New(fault.WrongRole, "node %s is not a producer proxy; publish at a node with the role producer", s.deps.Node)
	}
	return s.deps.Publisher, nil
}

func (s *Service) consumer() (consume.Consumer, error) {
	if s.deps.Consumer == nil {
		return nil, fault.New(fault.WrongRole, "node %s is not a consumer proxy; consume at a node with the role consumer", s.deps.Node)
	}
	return s.deps.Consumer, nil
}
