package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress; the decompressed size is bounded by MaxRecvMsgSize
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// Deps are what a server needs of the node. Auth and Log must be set.
type Deps struct {
	Auth Authenticator
	// Ready says why the node cannot serve yet; nil: it can. It is asked by the readiness probe.
	Ready func() error
	// Gatherer is what /metrics shows; nil: no such path.
	Gatherer prometheus.Gatherer
	// Registerer takes this package's own metrics; nil: not shown.
	Registerer prometheus.Registerer
	Log        *slog.Logger
	// Now is the wall clock; nil: time.Now.
	Now func() time.Time
}

// Server holds the listeners of a node.
type Server struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	faults  *Faults
	certs   *certs // nil without TLS

	grpc         *grpc.Server
	grpcListener net.Listener
	health       *health.Server
	http         *http.Server
	httpListener net.Listener
	paths        paths

	rights   map[string]Right // by full method; fixed at Start
	services map[string]bool
	live     liveStreams

	drainOnce sync.Once
	draining  chan struct{}
	drainMu   sync.Mutex // guards onDrain
	onDrain   map[*func()]struct{}

	started bool
	stop    context.CancelFunc
	done    sync.WaitGroup
	failed  chan error
}

// New validates, loads the certificates and opens the listeners; nothing is served before Start. What it opened
// is closed by Stop, also where Start never ran.
func New(cfg Config, deps Deps) (_ *Server, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	m := newMetrics(deps.Registerer)
	s := &Server{
		cfg: cfg, deps: deps, log: deps.Log, metrics: m, faults: &Faults{log: deps.Log, metrics: m},
		rights: make(map[string]Right), services: make(map[string]bool), live: liveStreams{open: make(map[*liveStream]struct{})},
		draining: make(chan struct{}), onDrain: make(map[*func()]struct{}), failed: make(chan error, 2),
	}
	defer func() {
		if err != nil {
			s.closeListeners()
		}
	}()
	if cfg.TLS.Enabled() {
		if s.certs, err = newCerts(cfg.TLS, s.log, m); err != nil {
			return nil, err
		}
	}
	if s.grpcListener, err = listen("grpc", cfg.GRPC); err != nil {
		return nil, err
	}
	if s.httpListener, err = listen("http", cfg.HTTP); err != nil {
		return nil, err
	}
	if cfg.InsecureListen && !cfg.TLS.Enabled() {
		s.log.Warn("listening without TLS: credentials and messages travel in the clear", "grpc", cfg.GRPC, "http", cfg.HTTP)
	}
	s.grpc = grpc.NewServer(s.grpcOptions()...)
	s.initHTTP()
	return s, s.registerHealth()
}

// grpcOptions: windows and buffers as measured (10 to 20 % less CPU than the defaults with 1 KiB messages).
func (s *Server) grpcOptions() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.InitialWindowSize(4 << 20),
		grpc.InitialConnWindowSize(16 << 20),
		grpc.ReadBufferSize(128 << 10),
		grpc.WriteBufferSize(128 << 10),
		grpc.MaxRecvMsgSize(s.cfg.MaxRequestBytes + requestOverheadBytes),
		grpc.MaxConcurrentStreams(uint32(s.cfg.MaxStreams)), //nolint:gosec // Validate bounds it
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(s.keepalive()),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	}
	if s.certs != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(s.certs.server(&s.certs.grpc))))
	}
	if s.cfg.Tracing {
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler()))
	}
	return opts
}

// keepalive finds dead clients and, with the library's own jitter of 10 %, ends connections of ConnectionAge.
// Streams are asked to move earlier (StreamEnd), so the grace is for those that do not listen.
func (s *Server) keepalive() keepalive.ServerParameters {
	p := keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}
	if s.cfg.ConnectionAge > 0 {
		p.MaxConnectionAge = s.cfg.ConnectionAge
		p.MaxConnectionAgeGrace = max(2*time.Minute, s.cfg.ConnectionAge/10)
	}
	return p
}

func (s *Server) registerHealth() error {
	s.health = health.NewServer()
	return s.Register(&grpc_health_v1.Health_ServiceDesc, s.health, map[string]Right{"Check": Public, "List": Public, "Watch": Public})
}

// Register adds a gRPC service with the right that each of its methods asks for, by the method's short name.
// It fails for a method without an entry, an entry without a method, and an impl that is not one. Before Start only.
func (s *Server) Register(desc *grpc.ServiceDesc, impl any, rights map[string]Right) error {
	if s.started {
		return fmt.Errorf("service %s: registered after the start", desc.ServiceName)
	}
	if s.services[desc.ServiceName] {
		return fmt.Errorf("service %s: registered twice", desc.ServiceName)
	}
	if want := reflect.TypeOf(desc.HandlerType).Elem(); !reflect.TypeOf(impl).Implements(want) {
		return fmt.Errorf("service %s: %T does not implement %v", desc.ServiceName, impl, want)
	}
	names := make([]string, 0, len(desc.Methods)+len(desc.Streams))
	for _, m := range desc.Methods {
		names = append(names, m.MethodName)
	}
	for _, m := range desc.Streams {
		names = append(names, m.StreamName)
	}
	for _, n := range names {
		right, ok := rights[n]
		if _, known := rightNames[right]; !ok || !known {
			return fmt.Errorf("service %s: method %s has no entry in the table of rights; add one", desc.ServiceName, n)
		}
		s.rights["/"+desc.ServiceName+"/"+n] = right
	}
	for n := range rights {
		if !slices.Contains(names, n) {
			return fmt.Errorf("service %s: the table of rights names method %s, which it does not have", desc.ServiceName, n)
		}
	}
	s.services[desc.ServiceName] = true
	s.grpc.RegisterService(desc, impl)
	return nil
}

// Start serves. It fails where a method is not covered by the table of rights.
func (s *Server) Start() error {
	for name, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			if _, ok := s.rights["/"+name+"/"+m.Name]; !ok {
				return fmt.Errorf("service %s: method %s has no entry in the table of rights; add one", name, m.Name)
			}
		}
	}
	s.started = true
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.serve("grpc", func() error {
		return s.grpc.Serve(newLimitListener(s.grpcListener, "grpc", s.cfg, nil, s.metrics, s.deps.Now))
	})
	s.serve("http", func() error { return s.serveHTTP() })
	s.done.Go(func() { s.watch(ctx) })
	return nil
}

// serve runs one listener; an end that nobody asked for is reported by Failed.
func (s *Server) serve(name string, f func() error) {
	s.done.Go(func() {
		err := f()
		if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
			return
		}
		select {
		case s.failed <- fmt.Errorf("%s listener: %w", name, err):
		default: // the first failures are enough to stop the node
		}
	})
}

// watch looks at live streams at each turn and at certificate files at each twentieth.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Recheck)
	defer tick.Stop()
	for turn := 1; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := s.live.recheck(ctx); n > 0 {
			s.metrics.revoked.Add(float64(n))
			s.log.Info("streams ended: their credential is no longer valid", "streams", n)
		}
		if s.certs != nil && turn%20 == 0 {
			_ = s.certs.reload() // logged and counted there
		}
	}
}

// RecheckStreams looks at the credentials of live streams now; for changes of the snapshot, which need not wait for the next turn.
func (s *Server) RecheckStreams() {
	s.metrics.revoked.Add(float64(s.live.recheck(context.Background())))
}

// Reload reads the certificate files now (SIGHUP). On an error the old pair is served on.
func (s *Server) Reload() error {
	if s.certs == nil {
		return nil
	}
	return s.certs.reload()
}

// Failed delivers the error of a listener that ended by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// GRPCAddr is the real host:port of the gRPC listener.
func (s *Server) GRPCAddr() string { return s.grpcListener.Addr().String() }

// HTTPAddr is the real host:port of the HTTP listener.
func (s *Server) HTTPAddr() string { return s.httpListener.Addr().String() }

// Faults maps errors for handlers.
func (s *Server) Faults() *Faults { return s.faults }

// MaxRequestBytes is the limit of one request.
func (s *Server) MaxRequestBytes() int { return s.cfg.MaxRequestBytes }

// GoAway turns readiness off and tells streams to move; calls are served on. It may be called twice.
func (s *Server) GoAway() {
	s.drainOnce.Do(func() {
		close(s.draining)
		s.health.Shutdown()
		s.drainMu.Lock()
		fs := s.onDrain
		s.onDrain = nil
		s.drainMu.Unlock()
		for f := range fs {
			(*f)()
		}
	})
}

// Draining is closed by GoAway.
func (s *Server) Draining() <-chan struct{} { return s.draining }

// OnGoAway calls f once at GoAway, at once where that was before; f must not block. The result takes it back.
func (s *Server) OnGoAway(f func()) (remove func()) {
	s.drainMu.Lock()
	if s.onDrain == nil {
		s.drainMu.Unlock()
		f()
		return func() {}
	}
	s.onDrain[&f] = struct{}{}
	s.drainMu.Unlock()
	return func() {
		s.drainMu.Lock()
		delete(s.onDrain, &f) // nil map: fine
		s.drainMu.Unlock()
	}
}

// Stop goes away, waits for calls to end until ctx does, then ends them, and waits for the goroutines. It names what it had to end.
func (s *Server) Stop(ctx context.Context) error {
	s.GoAway()
	if !s.started {
		s.closeListeners()
		return nil
	}
	s.stop()
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	var errs []error
	if err := s.http.Shutdown(ctx); err != nil {
		errs = append(errs, fmt.Errorf("http: requests ended by force: %w", err))
		_ = s.http.Close() // the listener is closed; what is left are connections
	}
	select {
	case <-graceful:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("grpc: calls ended by force: %w", ctx.Err()))
		s.grpc.Stop()
		<-graceful
	}
	s.done.Wait()
	return errors.Join(errs...)
}

// closeListeners undoes New where Start never ran.
func (s *Server) closeListeners() {
	for _, l := range []net.Listener{s.grpcListener, s.httpListener} {
		if l != nil {
			_ = l.Close() // nothing was accepted
		}
	}
}
