package data

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakePublisher keeps what it gets and stores it, or answers as judge says.
type fakePublisher struct {
	judge func(*publish.Request) []publish.Result // nil: all stored
	hold  chan struct{}                           // not nil: answers wait for it

	mu   sync.Mutex
	reqs []*publish.Request
	wg   sync.WaitGroup
}

func (p *fakePublisher) NewStream() *publish.Stream { return new(publish.Stream) }

func (p *fakePublisher) Publish(_ context.Context, _ auth.Who, req *publish.Request, done func([]publish.Result)) {
	p.mu.Lock()
	p.reqs = append(p.reqs, req)
	p.mu.Unlock()
	answer := func() {
		if p.judge != nil {
			done(p.judge(req))
			return
		}
		rs := make([]publish.Result, len(req.Messages))
		for i := range rs {
			id := req.Messages[i].ID
			if id == "" {
				id = fmt.Sprintf("made-%d", i)
			}
			rs[i] = publish.Result{Status: publish.Stored, ID: id, Cluster: "c", Partition: fmt.Sprint(i % 3), Offset: int64(i)}
		}
		done(rs)
	}
	if p.hold == nil {
		answer()
		return
	}
	p.wg.Go(func() { <-p.hold; answer() })
}

func (p *fakePublisher) taken() []*publish.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*publish.Request(nil), p.reqs...)
}

func (p *fakePublisher) last() *publish.Request {
	rs := p.taken()
	if len(rs) == 0 {
		return nil
	}
	return rs[len(rs)-1]
}

// fakeConsumer has one queue of messages; receipts are "r-OFFSET".
type fakeConsumer struct {
	nodes []*snapshot.Node

	mu       sync.Mutex
	queue    []consume.Delivery
	changed  chan struct{} // closed and made anew when the queue grows
	leased   map[string]consume.Delivery
	settled  map[string]consume.Action
	sessions []*fakeSession
	opened   []consume.Subscription
	refuse   error // of Open
}

func newFakeConsumer() *fakeConsumer {
	return &fakeConsumer{changed: make(chan struct{}), leased: make(map[string]consume.Delivery), settled: make(map[string]consume.Action)}
}

func (c *fakeConsumer) add(ds ...consume.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, ds...)
	close(c.changed)
	c.changed = make(chan struct{})
}

func message(offset int, size int) consume.Delivery {
	return consume.Delivery{
		Receipt: fmt.Appendf(nil, "r-%d", offset), ID: fmt.Sprint("id-", offset), Topic: "orders", Cluster: "c", Partition: "0", Offset: int64(offset),
		Attempt: 1, Deadline: time.UnixMilli(2_000), Record: mq.Record{Body: make([]byte, size), Timestamp: time.UnixMilli(1_500)},
	}
}

func (c *fakeConsumer) Open(_ context.Context, _ auth.Who, sub consume.Subscription) (consume.Session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return nil, c.refuse
	}
	s := &fakeSession{consumer: c, events: make(chan consume.Event, 8), poke: make(chan struct{}, 8)}
	c.sessions = append(c.sessions, s)
	c.opened = append(c.opened, sub)
	return s, nil
}

func (c *fakeConsumer) Settle(_ context.Context, _ auth.Who, group string, acks []consume.Ack) []*fault.Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*fault.Error, len(acks))
	for i, a := range acks {
		d, ok := c.leased[string(a.Receipt)]
		switch {
		case group == "other" || !strings.HasPrefix(string(a.Receipt), "r-"):
			out[i] = fault.New(fault.ReceiptInvalid, "the receipt is of another group")
		case !ok:
			out[i] = fault.New(fault.Reassigned, "not leased")
		case a.Action == consume.Return:
			delete(c.leased, string(a.Receipt))
			c.queue = append(c.queue, d)
			c.settled[string(a.Receipt)] = a.Action
		default:
			delete(c.leased, string(a.Receipt))
			c.settled[string(a.Receipt)] = a.Action
		}
	}
	return out
}

func (c *fakeConsumer) GroupNodes(string) []*snapshot.Node { return c.nodes }

func (c *fakeConsumer) counts() (queued, leased int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue), len(c.leased)
}

func (c *fakeConsumer) session(i int) *fakeSession {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i >= len(c.sessions) {
		return nil
	}
	return c.sessions[i]
}

type fakeSession struct {
	consumer *fakeConsumer
	events   chan consume.Event
	poke     chan struct{}

	mu     sync.Mutex
	closed string
}

func (s *fakeSession) tell(ev consume.Event) {
	s.events <- ev
	s.poke <- struct{}{}
}

func (s *fakeSession) Next(ctx context.Context, most int, wait time.Duration) ([]consume.Delivery, error) {
	end := time.NewTimer(wait)
	defer end.Stop()
	for {
		s.consumer.mu.Lock()
		if n := min(most, len(s.consumer.queue)); n > 0 {
			ds := append([]consume.Delivery(nil), s.consumer.queue[:n]...)
			s.consumer.queue = s.consumer.queue[n:]
			for _, d := range ds {
				s.consumer.leased[string(d.Receipt)] = d
			}
			s.consumer.mu.Unlock()
			return ds, nil
		}
		changed := s.consumer.changed
		s.consumer.mu.Unlock()
		select {
		case <-changed:
		case <-s.poke:
			return nil, nil
		case <-end.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *fakeSession) Return(ds []consume.Delivery) {
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	for _, d := range ds {
		delete(s.consumer.leased, string(d.Receipt))
		s.consumer.queue = append(s.consumer.queue, d)
	}
}

func (s *fakeSession) Settings() snapshot.Settings  { return snapshot.Settings{}.WithDefaults() }
func (s *fakeSession) Events() <-chan consume.Event { return s.events }

func (s *fakeSession) Close(now bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed += fmt.Sprintf("closed(%t)", now)
}

func (s *fakeSession) state() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// tokens knows "app"; it can be revoked.
type tokens struct {
	mu      sync.Mutex
	revoked bool
}

func (a *tokens) Authenticate(_ context.Context, token string, _ *tls.ConnectionState, _ net.Addr) (auth.Who, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if token != "app" || a.revoked {
		return auth.Who{}, fault.New(fault.Unauthenticated, "unknown")
	}
	return auth.Who{App: "shop"}, nil
}

func (a *tokens) revoke() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked = true
}

type current struct{ snap *snapshot.Snapshot }

func (c current) Current() *snapshot.Snapshot { return c.snap }

// bundle is a node's data plane on the loopback with fake engines.
type bundle struct {
	t         testing.TB
	publisher *fakePublisher
	consumer  *fakeConsumer
	tokens    *tokens
	server    *rpc.Server
	service   *Service
	http      *http.Client
}

type option func(*rpc.Config, *Config, *Deps)

func start(t testing.TB, opts ...option) *bundle {
	t.Helper()
	b := &bundle{t: t, publisher: &fakePublisher{}, consumer: newFakeConsumer(), tokens: &tokens{}}
	rcfg, cfg := rpc.DefaultConfig(), DefaultConfig()
	rcfg.GRPC, rcfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	log := slog.New(slog.DiscardHandler)
	deps := Deps{Publisher: b.publisher, Consumer: b.consumer, Node: "n1", Log: log, Snapshots: current{&snapshot.Snapshot{Version: 7, Nodes: map[string]*snapshot.Node{
		"n2": {Name: "n2", Alive: true, GRPC: "h2:1"}, "n1": {Name: "n1", Alive: true, Roles: []string{"producer"}}, "n3": {Name: "n3"}, "n4": {Name: "n4", Alive: true, Draining: true},
	}}}}
	for _, o := range opts {
		o(&rcfg, &cfg, &deps)
	}
	var err error
	if b.server, err = rpc.New(rcfg, rpc.Deps{Auth: b.tokens, Log: log}); err != nil {
		t.Fatal(err)
	}
	if b.service, err = New(cfg, b.server, deps); err != nil {
		t.Fatal(err)
	}
	if err := b.server.Start(); err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	b.http = &http.Client{Transport: tr}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = b.server.Stop(ctx) // streams that a test leaves open are ended by force
		b.service.Close()
		b.publisher.wg.Wait()
	})
	return b
}

func (b *bundle) conn() *grpc.ClientConn {
	b.t.Helper()
	c, err := grpc.NewClient(b.server.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	return c
}

func asApp(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer app")
}

// post sends a body and gives status and answer.
func (b *bundle) post(path, body string, header ...string) (int, http.Header, string) {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+b.server.HTTPAddr()+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer app")
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(out)
}

// eventually polls with a deadline.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond) // the pause of a poll, not a wait for something to have happened
	}
}
