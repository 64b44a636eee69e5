package rpc

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokens is an Authenticator over a map; "" may be in it.
type tokens struct {
	mu sync.Mutex
	by map[string]auth.Who
}

func (a *tokens) Authenticate(_ context.Context, token string, state *tls.ConnectionState, remote net.Addr) (auth.Who, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := remote.(*net.TCPAddr); !ok {
		return auth.Who{}, fault.New(fault.Internal, "remote is a %T", remote)
	}
	if token == "" && state != nil && len(state.VerifiedChains) > 0 {
		return auth.Who{App: state.PeerCertificates[0].Subject.CommonName}, nil
	}
	w, ok := a.by[token]
	if !ok {
		return auth.Who{}, fault.New(fault.Unauthenticated, "token %q is unknown to the snapshot", token)
	}
	return w, nil
}

func (a *tokens) revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.by, token)
}

func newTokens() *tokens {
	return &tokens{by: map[string]auth.Who{"app": {App: "shop"}, "admin": {Admin: true}, "node": {Node: "n2"}}}
}

// calls implements the services with handlers of the test.
type calls struct {
	sluicev1.UnimplementedProducerServiceServer
	sluicev1.UnimplementedConsumerServiceServer
	publish func(context.Context, *sluicev1.PublishRequest) (*sluicev1.PublishResponse, error)
	consume func(grpc.BidiStreamingServer[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]) error
}

func (c *calls) Publish(ctx context.Context, r *sluicev1.PublishRequest) (*sluicev1.PublishResponse, error) {
	return c.publish(ctx, r)
}

func (c *calls) Consume(s grpc.BidiStreamingServer[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]) error {
	return c.consume(s)
}

var (
	producerRights = map[string]Right{"Publish": Produce, "PublishStream": Produce}
	consumerRights = map[string]Right{"Pull": Consume, "Ack": Consume, "Consume": Consume}
)

// serve starts a server with the calls and stops it with the test.
func serve(t *testing.T, cfg Config, authn Authenticator, c *calls) *Server {
	t.Helper()
	cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	if authn == nil {
		authn = newTokens()
	}
	reg := prometheus.NewRegistry()
	s, err := New(cfg, Deps{Auth: authn, Log: slog.New(slog.DiscardHandler), Registerer: reg, Gatherer: reg})
	if err != nil {
		t.Fatal(err)
	}
	if c == nil {
		c = &calls{}
	}
	if err := s.Register(&sluicev1.ProducerService_ServiceDesc, c, producerRights); err != nil {
		t.Fatal(err)
	}
	if err := s.Register(&sluicev1.ConsumerService_ServiceDesc, c, consumerRights); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.Stop(ctx) // tests of stopping look at it themselves
	})
	return s
}

func dial(t *testing.T, s *Server, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if len(opts) == 0 {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	c, err := grpc.NewClient(s.GRPCAddr(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func get(t *testing.T, client *http.Client, method, url, token string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func plainClient(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestEveryReasonHasACodeBothWays(t *testing.T) {
	t.Parallel()
	values := sluicev1.Reason(0).Descriptor().Values()
	for i := range values.Len() {
		n := sluicev1.Reason(values.Get(i).Number())
		if n == sluicev1.Reason_REASON_UNSPECIFIED {
			continue
		}
		r, ok := reasons[n]
		if !ok {
			t.Errorf("%s has no entry in the table", n)
			continue
		}
		if want := strings.ToLower(strings.TrimPrefix(n.String(), "REASON_")); string(r) != want {
			t.Errorf("%s is %q, its JSON name must be %q", n, r, want)
		}
		if got := table[r]; got.Proto != n || got.HTTP < 400 || got.GRPC == codes.OK || got.GRPC == codes.Unknown {
			t.Errorf("%s maps to %+v", n, got)
		}
	}
	if len(table) != values.Len()-1 {
		t.Errorf("table has %d entries, reason.proto %d", len(table), values.Len()-1)
	}
	for c := mq.Fatal; c <= mq.Exists; c++ {
		if _, ok := classes[c]; !ok {
			t.Errorf("class %v has no reason", c)
		}
	}
	_ = values
}

func TestErrorsReachTheCallerWithDetail(t *testing.T) {
	t.Parallel()
	s := serve(t, DefaultConfig(), nil, &calls{publish: func(_ context.Context, r *sluicev1.PublishRequest) (*sluicev1.PublishResponse, error) {
		switch r.GetTopic() {
		case "fault":
			return nil, &fault.Error{Reason: fault.SlowDown, Text: "app shop: too much", RetryAfter: 1500 * time.Microsecond}
		case "driver":
			return nil, &mq.Error{Class: mq.Timeout, Broker: "1", MaybeSent: true}
		case "panic":
			panic("secret stack")
		case "unknown":
			return nil, io.ErrNoProgress
		}
		return &sluicev1.PublishResponse{}, nil
	}})
	client := sluicev1.NewProducerServiceClient(dial(t, s))
	for topic, want := range map[string]*fault.Error{
		"fault":  {Reason: fault.SlowDown, Text: "app shop: too much", RetryAfter: 2 * time.Millisecond},
		"driver": {Reason: fault.DeadlineExceeded, Text: "broker 1: timeout", MaybeSent: true},
	} {
		_, err := client.Publish(as(t.Context(), "app"), &sluicev1.PublishRequest{Topic: topic})
		if d := cmp.Diff(want, FromStatus(err)); d != "" {
			t.Errorf("%s: %s", topic, d)
		}
	}
	for _, topic := range []string{"panic", "unknown"} {
		_, err := client.Publish(as(t.Context(), "app"), &sluicev1.PublishRequest{Topic: topic})
		e := FromStatus(err)
		if e == nil || e.Reason != fault.Internal || !strings.HasPrefix(e.Text, "internal error ") || strings.Contains(e.Text, "secret") {
			t.Errorf("%s: %v", topic, err)
		}
	}
	if _, err := client.Publish(as(t.Context(), "app"), &sluicev1.PublishRequest{Topic: "fine"}); err != nil {
		t.Error(err)
	}
}

func TestNothingAnswersWithoutACredential(t *testing.T) {
	t.Parallel()
	s := serve(t, DefaultConfig(), nil, nil)
	conn := dial(t, s)
	var missing, unknown error
	for method, right := range s.rights {
		if right == Public {
			continue
		}
		for token, err := range map[string]*error{"": &missing, "revoked": &unknown} {
			ctx := t.Context()
			if token != "" {
				ctx = as(ctx, token)
			}
			*err = conn.Invoke(ctx, method, &sluicev1.NodesRequest{}, &sluicev1.NodesResponse{})
			if FromStatus(*err).Reason != fault.Unauthenticated {
				t.Errorf("%s with token %q: %v", method, token, *err)
			}
		}
		if missing.Error() != unknown.Error() {
			t.Errorf("the answers tell a missing from an unknown credential: %v, %v", missing, unknown)
		}
		if err := conn.Invoke(as(t.Context(), "node"), method, &sluicev1.NodesRequest{}, &sluicev1.NodesResponse{}); FromStatus(err).Reason != fault.PermissionDenied {
			t.Errorf("%s as a node: %v", method, err)
		}
	}
	client := plainClient(t)
	for path, want := range map[string]int{
		"/healthz/live": 200, "/healthz/ready": 200, "/": 200, "/metrics": 401, "/v1/anything": 401, "/debug/pprof/": 404, "/nope": 404,
	} {
		if got, h, body := get(t, client, "GET", "http://"+s.HTTPAddr()+path, ""); got != want || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	if got, _, _ := get(t, client, "GET", "http://"+s.HTTPAddr()+"/metrics", "app"); got != 403 {
		t.Errorf("metrics as an app: %d", got)
	}
	if got, _, body := get(t, client, "GET", "http://"+s.HTTPAddr()+"/metrics", "admin"); got != 200 || !strings.Contains(body, "sluice_rpc_connections{") {
		t.Errorf("metrics as admin: %d %s", got, body)
	}
	if got, h, body := get(t, client, "POST", "http://"+s.HTTPAddr()+"/healthz/live", ""); got != 405 || h.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %s", got, body)
	}
}

func TestRegisterRefusesMethodWithoutRight(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	s, err := New(cfg, Deps{Auth: newTokens(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Stop(t.Context()) }()
	for name, rights := range map[string]map[string]Right{
		"missing":    {"Publish": Produce},
		"zero":       {"Publish": Produce, "PublishStream": 0},
		"superfluos": {"Publish": Produce, "PublishStream": Produce, "Other": Public},
	} {
		if err := s.Register(&sluicev1.ProducerService_ServiceDesc, &calls{}, rights); err == nil {
			t.Errorf("%s: registered", name)
		}
	}
	if err := s.Register(&sluicev1.ProducerService_ServiceDesc, "no service", producerRights); err == nil {
		t.Error("registered a string")
	}
	// Somebody who goes round Register is found at the start.
	s.grpc.RegisterService(&sluicev1.SessionService_ServiceDesc, sluicev1.UnimplementedSessionServiceServer{})
	if err := s.Start(); err == nil || !strings.Contains(err.Error(), "Nodes has no entry") {
		t.Errorf("start: %v", err)
	}
}

func TestRevokedTokenEndsStream(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.Recheck = 10 * time.Millisecond
	authn := newTokens()
	s := serve(t, cfg, authn, &calls{consume: func(st grpc.BidiStreamingServer[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]) error {
		if err := st.Send(&sluicev1.ConsumeResponse{}); err != nil {
			return err
		}
		<-st.Context().Done()
		return st.Context().Err()
	}})
	st, err := sluicev1.NewConsumerServiceClient(dial(t, s)).Consume(as(t.Context(), "app"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	authn.revoke("app")
	if _, err := st.Recv(); FromStatus(err).Reason != fault.Unauthenticated {
		t.Errorf("after the revocation: %v", err)
	}
}

func TestStopDrainsThenEnds(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	s := serve(t, DefaultConfig(), nil, &calls{consume: func(st grpc.BidiStreamingServer[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]) error {
		close(entered)
		<-st.Context().Done()
		return st.Context().Err()
	}})
	st, err := sluicev1.NewConsumerServiceClient(dial(t, s)).Consume(as(t.Context(), "app"))
	if err != nil {
		t.Fatal(err)
	}
	<-entered
	told := 0
	s.OnGoAway(func() { told++ })
	remove := s.OnGoAway(func() { told += 10 })
	remove()
	s.GoAway()
	s.OnGoAway(func() { told += 100 })
	if told != 101 {
		t.Errorf("told %d", told)
	}
	client := plainClient(t)
	if code, _, body := get(t, client, "GET", "http://"+s.HTTPAddr()+"/healthz/ready", ""); code != 503 || !strings.Contains(body, "draining") {
		t.Errorf("ready while draining: %d %s", code, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil || !strings.Contains(err.Error(), "by force") {
		t.Errorf("stop with a stream that does not end: %v", err)
	}
	if _, err := st.Recv(); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
		t.Errorf("stream after the stop: %v", err)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change func(*Config)
		want   string
	}{
		"defaults":          {func(*Config) {}, ""},
		"localhost":         {func(c *Config) { c.GRPC = "localhost:0" }, ""},
		"v6 loopback":       {func(c *Config) { c.HTTP = "[::1]:0" }, ""},
		"all":               {func(c *Config) { c.GRPC = ":7600" }, "set --tls-cert"},
		"other":             {func(c *Config) { c.GRPC = "10.0.0.1:7600" }, "set --tls-cert"},
		"other with flag":   {func(c *Config) { c.GRPC = "10.0.0.1:7600"; c.InsecureListen = true }, ""},
		"other with TLS":    {func(c *Config) { c.GRPC = "10.0.0.1:7600"; c.TLS = TLS{Cert: "c", Key: "k"} }, ""},
		"dev":               {func(c *Config) { c.Dev = true }, ""},
		"dev elsewhere":     {func(c *Config) { c.Dev = true; c.InsecureListen = true; c.HTTP = "0.0.0.0:1" }, "leave out --dev"},
		"key alone":         {func(c *Config) { c.TLS.Key = "k" }, "come together"},
		"no port":           {func(c *Config) { c.GRPC = "127.0.0.1" }, "host:port"},
		"bad port":          {func(c *Config) { c.GRPC = "127.0.0.1:66000" }, "valid port"},
		"slow recheck":      {func(c *Config) { c.Recheck = time.Minute }, "recheck"},
		"no connections":    {func(c *Config) { c.MaxConnections = 0 }, "max_connections"},
		"client certs only": {func(c *Config) { c.TLS.RequireClientCert = true }, "needs ca"},
	}
	for name, tc := range cases {
		c := DefaultConfig()
		tc.change(&c)
		err := c.Validate()
		if (tc.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestPortInUseNamesAddressAndWayOut(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := DefaultConfig()
	cfg.GRPC, cfg.HTTP = "127.0.0.1:0", l.Addr().String()
	_, err = New(cfg, Deps{Auth: newTokens(), Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "port is in use") || !strings.Contains(err.Error(), "--http") {
		t.Errorf("error %v", err)
	}
}

func TestConnectionLimitRefuses(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.MaxConnections = 1
	s := serve(t, cfg, nil, nil)
	first := plainClient(t)
	if code, _, _ := get(t, first, "GET", "http://"+s.HTTPAddr()+"/healthz/live", ""); code != 200 {
		t.Fatal(code)
	}
	if code, h, body := get(t, plainClient(t), "GET", "http://"+s.HTTPAddr()+"/healthz/live", ""); code != 503 || h.Get("Retry-After") == "" || !strings.Contains(body, "node full") {
		t.Errorf("second connection: %d %s", code, body)
	}
	first.CloseIdleConnections()
	deadline := time.Now().Add(5 * time.Second)
	for {
		c := plainClient(t)
		code, _, _ := get(t, c, "GET", "http://"+s.HTTPAddr()+"/healthz/live", "")
		if code == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a closed connection was not given back")
		}
	}
}

func TestCrossOriginWriteIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, DefaultConfig(), nil, nil)
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+s.HTTPAddr()+"/v1/x", strings.NewReader("{}"))
	req.Header.Set("Origin", "https://evil.example")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	req.Header.Set("Authorization", "Bearer admin")
	resp, err := plainClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", resp.StatusCode)
	}
}
