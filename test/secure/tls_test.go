package secure

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/test/harness"
)

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "m%d\n", i)
	}
	return b.String()
}

func TestAppWithTokenWorksOverTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "own CA")
	cert, key := ca.files(ca.issue(forServer))
	s := setUp(t, ca, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca.file)
	ctx := within(t, 2*time.Minute)
	s.administrate(ctx, "", "topic", "create", "orders", "--partitions", "4")
	app := s.app(ctx, "billing")

	// gRPC, by the command line.
	const count = 2000
	stored := harness.Decode[harness.Stored](t, s.Must(ctx, lines(count), s.reach(app, "pub", "orders", "-o", "json")...).Lines())
	got := harness.Decode[harness.Message](t, s.Must(ctx, "", s.reach(app, "sub", "orders", "--group", "grpc", "--count", "2000", "--timeout", "30s", "-o", "json")...).Lines())
	if n := len(harness.ByStatus(stored, "stored")); n != count {
		t.Errorf("%d of %d are stored", n, count)
	}
	harness.Count(harness.ByStatus(stored, "stored"), nil, harness.IDs(got)).Exactly(t)

	// HTTPS.
	s.administrate(ctx, "", "topic", "create", "web", "--partitions", "1")
	a := s.post(t, s.HTTP, "/v1/topics/web/messages", app, `{"messages":[{"body":"a"},{"body":"b"},{"body":"c"}]}`, http.StatusOK)
	if len(a.Results) != 3 {
		t.Fatalf("%d results for 3 messages", len(a.Results))
	}
	delivered := s.drain(t, ctx, s.HTTP, app, "https", "web", 3, s.HTTP)
	var ids []string
	for _, r := range a.Results {
		ids = append(ids, r.ID)
	}
	harness.Count(ids, nil, delivered).Exactly(t)

	// A client that trusts another CA, one that speaks in the clear, and one whose certificate is of another CA get nowhere.
	other := newAuthority(t, "another CA")
	if r := s.Run(ctx, "x\n", "pub", "orders", "--token", app, "--server-ca", other.file, "--timeout", "5s"); r.Code != 1 || !strings.Contains(r.Err, "certificate") {
		t.Errorf("wrong CA: exit %d, %s", r.Code, r.Err)
	}
	if r := s.Run(ctx, "", "topic", "list", "--token", s.admin, "--server-ca", other.file); r.Code != 1 || !strings.Contains(r.Err, "certificate") {
		t.Errorf("wrong CA for administration: exit %d, %s", r.Code, r.Err)
	}
	if r := s.Run(ctx, "x\n", "pub", "orders", "--token", app, "--timeout", "5s"); r.Code != 1 {
		t.Errorf("without TLS: exit %d, %s", r.Code, r.Err)
	}
	if _, _, err := call(ctx, other.trust(), http.MethodGet, "https://"+s.HTTP+"/healthz/live", "", ""); err == nil {
		t.Error("HTTPS with the wrong CA works")
	}
	stranger := ca.trust(other.issue(forClient, "sluice://app/billing"))
	if status, text, err := call(ctx, stranger, http.MethodGet, "https://"+s.HTTP+"/v1/nodes", "", ""); err == nil && status != http.StatusUnauthorized {
		t.Errorf("a certificate of another CA is a credential: %d %s", status, text)
	}
}

// drain pulls at one node and accepts at another until count messages came, and gives their ids.
func (s *site) drain(t *testing.T, ctx context.Context, at, token, group, topic string, count int, ackAt string) []string {
	t.Helper()
	var ids []string
	for len(ids) < count {
		if ctx.Err() != nil {
			t.Fatalf("%d of %d messages came", len(ids), count)
		}
		a := s.post(t, at, "/v1/groups/"+group+"/pull", token, fmt.Sprintf(`{"topics":[%q],"max_messages":%d,"wait":"5s","client":"drain"}`, topic, min(100, count-len(ids))), http.StatusOK)
		if len(a.Messages) == 0 {
			continue
		}
		type ack struct {
			Receipt string `json:"receipt"`
			Action  string `json:"action"`
		}
		var acks []ack
		for _, m := range a.Messages {
			ids = append(ids, m.ID)
			acks = append(acks, ack{m.Receipt, "accept"})
		}
		body, err := json.Marshal(map[string]any{"acks": acks})
		if err != nil {
			t.Fatal(err)
		}
		if r := s.post(t, ackAt, "/v1/groups/"+group+"/ack", token, string(body), http.StatusOK); len(r.Results) != len(acks) {
			t.Fatalf("%d results for %d acks", len(r.Results), len(acks))
		}
	}
	return ids
}

func TestClientCertificateIsACredential(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "own CA")
	cert, key := ca.files(ca.issue(forServer))
	s := setUp(t, ca, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca.file)
	ctx := within(t, time.Minute)
	s.administrate(ctx, "", "topic", "create", "orders", "--partitions", "1")

	appCert, appKey := ca.files(ca.issue(forClient, "sluice://app/billing"))
	as := func(args ...string) []string {
		return append(args, "--server-ca", ca.file, "--client-cert", appCert, "--client-key", appKey)
	}
	stored := harness.Decode[harness.Stored](t, s.Must(ctx, lines(100), as("pub", "orders", "-o", "json")...).Lines())
	got := harness.Decode[harness.Message](t, s.Must(ctx, "", as("sub", "orders", "--group", "g", "--count", "100", "--timeout", "30s", "-o", "json")...).Lines())
	harness.Count(harness.ByStatus(stored, "stored"), nil, harness.IDs(got)).Exactly(t)
	if r := s.Run(ctx, "", as("token", "list")...); r.Code != 1 {
		t.Errorf("an app's certificate administrates: %s", r.Out)
	}
	if status, text, err := call(ctx, ca.trust(ca.issue(forClient, "sluice://app/billing")), http.MethodPost, "https://"+s.HTTP+"/v1/topics/orders/messages", "", `{"messages":[{"body":"x"}]}`); err != nil || status != http.StatusOK {
		t.Errorf("HTTPS with a certificate: %d %s %v", status, text, err)
	}
	// Certificates of the CA that name nobody are no credential.
	for name, p := range map[string]pair{
		"no name": ca.issue(forClient), "other scheme": ca.issue(forClient, "https://app/billing"),
		"empty app": ca.issue(forClient, "sluice://app/"), "unknown kind": ca.issue(forClient, "sluice://admin/root"),
	} {
		status, text, err := call(ctx, ca.trust(p), http.MethodGet, "https://"+s.HTTP+"/v1/nodes", "", "")
		if err != nil || status != http.StatusUnauthorized {
			t.Errorf("certificate with %s: %d %s %v", name, status, text, err)
		}
	}
}

// seenSerial is the serial number that a new connection is shown.
func seenSerial(ctx context.Context, addr string, c *tls.Config) (*big.Int, error) {
	c = c.Clone()
	c.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber, nil
}

// traffic publishes and consumes on streams that stay open, and sends HTTPS requests on new connections, until stop.
type traffic struct {
	stored, delivered []string
	requests          int
	errs              []error
	begun             chan struct{} // closed once all three work
	stop              func()
}

func (s *site) traffic(t *testing.T, token, topic string) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &traffic{begun: make(chan struct{})}
	var mu sync.Mutex // guards w
	var published, consumed, asked atomic.Int64
	var begin sync.Once
	note := func(counter *atomic.Int64) {
		counter.Add(1)
		if published.Load() > 0 && consumed.Load() > 0 && asked.Load() > 0 {
			begin.Do(func() { close(w.begun) })
		}
	}
	fail := func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		w.errs = append(w.errs, fmt.Errorf("%s: %w", what, err))
	}
	client := s.client(t, token)
	receiver, err := client.Receiver(ctx, sluice.Subscription{Group: topic, Topics: []string{topic}})
	if err != nil {
		t.Fatal(err)
	}
	var work, reading sync.WaitGroup
	readCtx, stopReading := context.WithCancel(t.Context())
	reading.Go(func() {
		for d, err := range receiver.All(readCtx) {
			if readCtx.Err() != nil {
				return
			}
			if err == nil {
				err = d.Accept(readCtx)
			}
			if err != nil {
				fail("consume", err)
				return
			}
			mu.Lock()
			w.delivered = append(w.delivered, d.ID)
			mu.Unlock()
			note(&consumed)
		}
	})
	work.Go(func() {
		p := client.Publisher(topic)
		for ctx.Err() == nil {
			r, err := p.Publish(context.WithoutCancel(ctx), sluice.Message{Body: []byte("x")})
			if err != nil {
				fail("publish", err)
				return
			}
			mu.Lock()
			w.stored = append(w.stored, r.ID)
			mu.Unlock()
			note(&published)
		}
	})
	work.Go(func() {
		for ctx.Err() == nil {
			status, text, err := call(context.WithoutCancel(ctx), s.tls(), http.MethodGet, "https://"+s.HTTP+"/v1/nodes", token, "")
			if err != nil || status != http.StatusOK {
				fail("https", fmt.Errorf("status %d %s: %w", status, text, err))
				return
			}
			note(&asked)
		}
	})
	w.stop = func() {
		cancel()
		work.Wait()
		w.requests = int(asked.Load())
		waitUntil(t, within(t, 20*time.Second), "all that is stored was delivered", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(w.delivered) >= len(w.stored) || len(w.errs) > 0
		})
		stopReading()
		reading.Wait()
	}
	return w
}

func TestCertificateIsSwappedUnderLiveStreams(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "own CA")
	first, second, third := ca.issue(forServer), ca.issue(forServer), ca.issue(forServer)
	files := mount(t, first)
	s := setUp(t, ca, "--tls-cert", files.cert(), "--tls-key", files.key(), "--tls-ca", ca.file)
	ctx := within(t, 2*time.Minute)
	s.administrate(ctx, "", "topic", "create", "orders", "--partitions", "4")
	w := s.traffic(t, s.app(ctx, "billing"), "orders")
	select {
	case <-w.begun:
	case <-ctx.Done():
		t.Fatal("nothing flows")
	}
	shown := func(want *big.Int) bool {
		for _, addr := range []string{s.GRPC, s.HTTP} {
			got, err := seenSerial(ctx, addr, ca.trust())
			if err != nil {
				t.Fatalf("handshake with %s: %v", addr, err)
			}
			if got.Cmp(want) != 0 {
				return false
			}
		}
		return true
	}
	if !shown(first.serial) {
		t.Fatal("the first certificate is not shown")
	}

	// A swap with SIGHUP.
	files.swap(second)
	s.Signal(syscall.SIGHUP)
	waitUntil(t, ctx, "the second certificate is shown", func() bool { return shown(second.serial) })

	// A bad pair is refused, logged, and changes nothing.
	files.swap(pair{cert: third.cert, key: second.key})
	s.Signal(syscall.SIGHUP)
	waitUntil(t, ctx, "the bad pair is in the log", func() bool {
		return strings.Contains(s.Output(), "certificate not reloaded, the old one stays")
	})
	if !shown(second.serial) {
		t.Error("a bad pair took the old one's place")
	}

	// A swap that nobody tells the node of is found within a minute.
	files.swap(third)
	waitUntil(t, within(t, 65*time.Second), "the third certificate is shown without a signal", func() bool { return shown(third.serial) })

	w.stop()
	for _, err := range w.errs {
		t.Errorf("under the swaps: %v", err)
	}
	c := harness.Count(w.stored, nil, w.delivered)
	t.Logf("%s, %d requests on new connections", c, w.requests)
	c.Exactly(t)
	status, text, err := call(ctx, ca.trust(), http.MethodGet, "https://"+s.HTTP+"/metrics", s.admin, "")
	if err != nil || status != http.StatusOK || !strings.Contains(text, "sluice_rpc_tls_") {
		t.Errorf("/metrics: %d %v: has nothing of certificates", status, err)
	}
}

func TestBadCertificateFilesStopTheStart(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "own CA")
	a, b := ca.issue(forServer), ca.issue(forServer)
	cert, key := ca.files(pair{cert: a.cert, key: b.key})
	goodCert, goodKey := ca.files(a)
	empty := cert + ".none"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"pair that does not fit": {[]string{"--tls-cert", cert, "--tls-key", key}, cert},
		"no key":                 {[]string{"--tls-cert", goodCert}, "belong together"},
		"no such file":           {[]string{"--tls-cert", goodCert + "x", "--tls-key", goodKey}, goodCert + "x"},
		"empty CA":               {[]string{"--tls-cert", goodCert, "--tls-key", goodKey, "--tls-ca", empty}, empty},
	} {
		n := harness.New(t, tc.args...)
		if err := n.TryStart(); err == nil || !strings.Contains(n.Output(), tc.says) {
			t.Errorf("%s: %v\n%s", name, err, n.Output())
		}
	}
}
