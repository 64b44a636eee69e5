package secure

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
	"github.com/sluice-mq/sluice/test/harness"
)

// site is a node without --dev that was set up, with its administrator's token; over TLS where ca is set.
type site struct {
	*harness.Node
	ca    *authority
	link  string
	admin string
}

// setUp starts a node without --dev and redeems its set-up link on the command line.
func setUp(t *testing.T, ca *authority, args ...string) *site {
	t.Helper()
	s := &site{Node: harness.Start(t, args...), ca: ca}
	s.link = s.SetupLink()
	if ca != nil && !strings.HasPrefix(s.link, "https://") {
		t.Errorf("the set-up link of a node with TLS is %s", s.link)
	}
	s.admin = strings.TrimSpace(s.Must(within(t, time.Minute), "", s.reach("", "setup", s.link, "-q")...).Out)
	return s
}

// reach adds CA and token to a command.
func (s *site) reach(token string, args ...string) []string {
	if s.ca != nil {
		args = append(args, "--server-ca", s.ca.file)
	}
	if token != "" {
		args = append(args, "--token", token)
	}
	return args
}

// as runs a command with a token.
func (s *site) as(ctx context.Context, token, stdin string, args ...string) harness.Result {
	return s.Run(ctx, stdin, s.reach(token, args...)...)
}

// administrate runs a command that must work as the administrator.
func (s *site) administrate(ctx context.Context, stdin string, args ...string) harness.Result {
	return s.Must(ctx, stdin, s.reach(s.admin, args...)...)
}

// app makes a token for an app.
func (s *site) app(ctx context.Context, name string) string {
	return strings.TrimSpace(s.administrate(ctx, "", "token", "create", name, "-q").Out)
}

// tls is the configuration of this site's clients, nil without TLS.
func (s *site) tls() *tls.Config {
	if s.ca == nil {
		return nil
	}
	return s.ca.trust()
}

// client is the SDK with a token.
func (s *site) client(t *testing.T, token string) *sluice.Client {
	t.Helper()
	opts := []sluice.Option{sluice.Token(token)}
	if c := s.tls(); c != nil {
		opts = append(opts, sluice.TLS(c))
	}
	return connect(t, s.GRPC, opts...)
}

func connect(t *testing.T, addr string, opts ...sluice.Option) *sluice.Client {
	t.Helper()
	c, err := sluice.Connect(t.Context(), addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Logf("closing a client: %v", err)
		}
	})
	return c
}

// dial is a bare gRPC connection.
func dial(t *testing.T, addr string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// bearer adds a token to the calls of a context.
func bearer(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// call does what curl does, on a connection of its own.
func call(ctx context.Context, config *tls.Config, method, url, token, body string, header ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	// Without "Connection: close": net/http cuts those off that still write when it has answered.
	tr := &http.Transport{TLSClientConfig: config}
	defer tr.CloseIdleConnections()
	client := &http.Client{Timeout: 40 * time.Second, Transport: tr}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// answer is what the paths of the API answer.
type answer struct {
	Results []struct {
		ID, Partition, Offset, Status string
		Error                         *struct{ Code, Message string }
	}
	Messages []struct{ ID, Body, Receipt string }
	Error    *struct{ Code, Message string }
}

// post is call that must get an answer of a status.
func (s *site) post(t *testing.T, addr, path, token, body string, want int) answer {
	t.Helper()
	status, text, err := call(t.Context(), s.tls(), http.MethodPost, s.scheme()+addr+path, token, body)
	if err != nil {
		t.Fatalf("POST %s: %v", path, err)
	}
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil || status != want {
		t.Fatalf("POST %s: %d, want %d: %v: %s", path, status, want, err, text)
	}
	return a
}

func (s *site) scheme() string {
	if s.ca == nil {
		return "http://"
	}
	return "https://"
}

// spread waits until other nodes know what this one, which has the control plane, knows now: tokens, topics, groups.
func (s *site) spread(t *testing.T, ctx context.Context, others ...*harness.Node) {
	t.Helper()
	version := func(n *harness.Node) uint64 {
		r, err := sluicev1.NewSessionServiceClient(dial(t, n.GRPC, s.tls())).Nodes(bearer(ctx, s.admin), &sluicev1.NodesRequest{})
		if err != nil {
			t.Logf("node %s: %v", n.Name, err)
		}
		return r.GetSnapshotVersion()
	}
	want := version(s.Node)
	for _, n := range others {
		waitUntil(t, ctx, "node "+n.Name+" has the newest snapshot", func() bool { return want > 0 && version(n) >= want })
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// waitUntil polls a condition until ctx ends.
func waitUntil(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}

func unique(name string) string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return name + "-" + hex.EncodeToString(b)
}
