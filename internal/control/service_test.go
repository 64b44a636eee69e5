package control

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

func TestFirstStartAndRestart(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{AutoCreate: true}, "")
	first := f.snaps.Current()
	if c := first.Clusters[EmbeddedCluster]; c == nil || c.Node != "n1" || len(first.ReceiptKeys) != 1 || !first.Nodes["n1"].Alive || first.SetupDone {
		t.Fatalf("first snapshot: %+v", first)
	}
	if _, err := f.EnsureTopic(t.Context(), "demo"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.EnsureSubscription(t.Context(), "g", map[string]snapshot.Settings{"demo": {Order: snapshot.OrderKey}}); err != nil {
		t.Fatal(err)
	}
	before := f.snaps.Current()
	f.close()
	again := setUp(t, Config{}, f.dir).snaps.Current()
	if again.Version <= before.Version || again.StoreID != before.StoreID {
		t.Errorf("version %d after %d, store %s after %s", again.Version, before.Version, again.StoreID, before.StoreID)
	}
	for what, d := range map[string]string{
		"clusters": cmp.Diff(before.Clusters, again.Clusters), "topics": cmp.Diff(before.Topics, again.Topics),
		"groups": cmp.Diff(before.Groups, again.Groups), "receipt keys": cmp.Diff(before.ReceiptKeys, again.ReceiptKeys),
	} {
		if d != "" {
			t.Errorf("%s changed by a restart: %s", what, d)
		}
	}
}

func TestSetupWorksOnce(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	file := filepath.Join(f.dir, "setup-link")
	offer := func() string {
		t.Helper()
		link := must[secret.Secret](t)(f.OfferSetup(t.Context(), file, func(s string) string { return "http://h/setup#" + s }))
		_, text, _ := strings.Cut(link.Reveal(), "#")
		return text
	}
	old := offer()
	text := offer()
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("link file: %v, %v", info, err)
	}
	_, err = f.Setup(t.Context(), old)
	wantReason(t, err, fault.Unauthenticated)
	token := must[secret.Secret](t)(f.Setup(t.Context(), text))
	a := auth.New(false, f.snaps, f.clock.now)
	if who, err := a.Authenticate(t.Context(), token.Reveal(), nil, nil); err != nil || !who.Admin {
		t.Errorf("the first administrator: %+v, %v", who, err)
	}
	_, err = f.Setup(t.Context(), text)
	wantReason(t, err, fault.AlreadyExists)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the used link is still on disk: %v", err)
	}
	if s := must[secret.Secret](t)(f.OfferSetup(t.Context(), file, strings.ToUpper)); !s.IsZero() {
		t.Error("a set-up link although an administrator exists")
	}
	f.noTrace(t, text, old, token.Reveal())
}

// noTrace looks for secrets in the log and in every file of the folder.
func (f *fixture) noTrace(t *testing.T, secrets ...string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(f.dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"the log": f.log.String()}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(b)
	}
	enc, err := snapshot.Encode(f.snaps.Current())
	if err != nil {
		t.Fatal(err)
	}
	texts["the snapshot"] = string(enc)
	for where, text := range texts {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s holds a secret", where)
			}
		}
	}
}

func TestSetupLinkExpires(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	link := must[secret.Secret](t)(f.OfferSetup(t.Context(), filepath.Join(f.dir, "l"), func(s string) string { return s }))
	f.clock.add(setupLife)
	_, err := f.Setup(t.Context(), link.Reveal())
	wantReason(t, err, fault.Unauthenticated)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	a := auth.New(false, f.snaps, f.clock.now)
	for _, app := range odd {
		id, token, err := f.CreateToken(t.Context(), admin, auth.KindApp, app, 0)
		if err != nil {
			t.Fatal(err)
		}
		if who, err := a.Authenticate(t.Context(), token.Reveal(), nil, nil); err != nil || who.App != app {
			t.Errorf("%q: %+v, %v", app, who, err)
		}
		if err := f.RevokeToken(t.Context(), admin, id); err != nil {
			t.Error(err)
		}
		if _, err := a.Authenticate(t.Context(), token.Reveal(), nil, nil); err == nil {
			t.Errorf("%q: revoked and still good", app)
		}
		wantReason(t, f.RevokeToken(t.Context(), admin, id), fault.InvalidArgument)
		f.noTrace(t, token.Reveal())
	}
	for _, bad := range []struct{ kind, app string }{{"root", "x"}, {auth.KindApp, ""}, {auth.KindSetup, ""}, {auth.KindApp, "a\nb"}, {auth.KindApp, strings.Repeat("x", 300)}, {auth.KindApp, "\xff"}} {
		_, _, err := f.CreateToken(t.Context(), admin, bad.kind, bad.app, 0)
		wantReason(t, err, fault.InvalidArgument)
	}
	_, node, err := f.CreateToken(t.Context(), admin, auth.KindNode, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := a.Authenticate(t.Context(), node.Reveal(), nil, nil); err != nil || who.Node == "" {
		t.Errorf("node token: %+v, %v", who, err)
	}
	if n := len(f.ListTokens(t.Context())); n != 1 {
		t.Errorf("%d tokens", n)
	}
}

func TestNodesJoinFallSilentAndLeave(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{DeadAfter: 60 * time.Millisecond, StartGrace: 200 * time.Millisecond}, "")
	alive := func(name string) bool { n := f.snaps.Current().Nodes[name]; return n != nil && n.Alive }
	n := snapshot.Node{Name: "n2", GRPC: "127.0.0.1:2", Roles: []string{"consumer"}}
	m := must[*Member](t)(f.Join(t.Context(), admin, n, 0))
	if !alive("n2") || !m.Beat(true) || !f.snaps.Current().Nodes["n2"].Draining {
		t.Fatal("joined and draining, but the snapshot does not say so")
	}
	m2 := must[*Member](t)(f.Join(t.Context(), admin, n, 0))
	if m.Beat(false) {
		t.Error("an old stream still speaks for the node")
	}
	m.Leave() // of the old stream: no effect
	if !alive("n2") {
		t.Error("an old stream's end killed the new one")
	}
	m2.Leave()
	if alive("n2") {
		t.Error("left and still alive")
	}
	must[*Member](t)(f.Join(t.Context(), admin, n, 0))
	eventually(t, "a silent node is dead", func() bool { return !alive("n2") })
	for _, bad := range []snapshot.Node{{Name: "n1", GRPC: "h:1"}, {Name: "", GRPC: "h:1"}, {Name: "a/b", GRPC: "h:1"}, {Name: "x", GRPC: "http://h:1/x"}, {Name: "x", GRPC: "h:1", Roles: []string{"root"}}} {
		if _, err := f.Join(t.Context(), admin, bad, 0); err == nil {
			t.Errorf("joined: %+v", bad)
		}
	}
	seen := f.snaps.Current().Version + 1000
	must[*Member](t)(f.Join(t.Context(), admin, n, seen))
	if v := f.snaps.Current().Version; v <= seen {
		t.Errorf("a node has seen %d, the next snapshot is %d: it would refuse it", seen, v)
	}
	if err := f.DrainNode(t.Context(), admin, "nobody", true); err == nil {
		t.Error("drained a node that does not exist")
	}
}

func TestRestartOfControlMovesNothing(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	must[*Member](t)(f.Join(t.Context(), admin, snapshot.Node{Name: "n2", GRPC: "127.0.0.1:2"}, 0))
	f.close()
	again := setUp(t, Config{}, f.dir)
	if n := again.snaps.Current().Nodes["n2"]; n == nil || !n.Alive {
		t.Error("a node that was alive is dead after a restart of the control plane, before it could beat")
	}
}

func TestClusters(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	const canary = "canary-Zx81"
	spec := ClusterSpec{Name: "k", Kind: mq.Kafka, Bootstrap: []string{"h:9092"}, SASLMechanism: "PLAIN", SASLUser: "u", SASLPassword: secret.New(canary)}
	f.fakes.bad["dead:1"] = errRefused
	for name, change := range map[string]func(*ClusterSpec){
		"no name":            func(c *ClusterSpec) { c.Name = "" },
		"slash":              func(c *ClusterSpec) { c.Name = "a/b" },
		"kind":               func(c *ClusterSpec) { c.Kind = "pulsar" },
		"embedded":           func(c *ClusterSpec) { c.Kind = mq.Embedded },
		"no address":         func(c *ClusterSpec) { c.Bootstrap = nil },
		"url":                func(c *ClusterSpec) { c.Bootstrap = []string{"http://h:9092/x"} },
		"no port":            func(c *ClusterSpec) { c.Bootstrap = []string{"h"} },
		"port 0":             func(c *ClusterSpec) { c.Bootstrap = []string{"h:0"} },
		"user":               func(c *ClusterSpec) { c.Bootstrap = []string{"u@h:1"} },
		"mechanism":          func(c *ClusterSpec) { c.SASLMechanism = "GSSAPI" },
		"no password":        func(c *ClusterSpec) { c.SASLPassword = secret.Secret{} },
		"ca":                 func(c *ClusterSpec) { c.TLS, c.TLSCA = true, []byte("file:///etc/passwd") },
		"tls without tls":    func(c *ClusterSpec) { c.TLSServerName = "x" },
		"cert without a key": func(c *ClusterSpec) { c.TLS, c.TLSCert = true, []byte("x") },
	} {
		bad := spec
		change(&bad)
		_, err := f.AddCluster(t.Context(), admin, &bad, true, false)
		if fault.ReasonOf(err) != fault.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	dead := spec
	dead.Bootstrap = []string{"dead:1"}
	_, err := f.AddCluster(t.Context(), admin, &dead, false, false)
	wantReason(t, err, fault.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "dead:1") {
		t.Errorf("the error does not name the address: %v", err)
	}
	must[*ClusterInfo](t)(f.AddCluster(t.Context(), admin, &spec, false, true))
	if f.snaps.Current().Clusters["k"] != nil {
		t.Error("a dry run registered the cluster")
	}
	info := must[*ClusterInfo](t)(f.AddCluster(t.Context(), admin, &spec, false, false))
	if info.Health != HealthOK || len(info.Brokers) == 0 {
		t.Errorf("info: %+v", info)
	}
	_, err = f.AddCluster(t.Context(), admin, &spec, false, false)
	wantReason(t, err, fault.AlreadyExists)
	set := ClusterSpec{Name: "k", Side: "payments"}
	version := info.Cluster.Version
	info = must[*ClusterInfo](t)(f.SetCluster(t.Context(), admin, &set, version, false))
	if info.Cluster.Side != "payments" || info.Cluster.SASLUser != "u" || len(info.Cluster.SealedPassword) == 0 {
		t.Errorf("set: %+v", info.Cluster)
	}
	_, err = f.SetCluster(t.Context(), admin, &set, version, false)
	wantReason(t, err, fault.Conflict)
	eventually(t, "the prober saw the embedded cluster", func() bool {
		list := f.ListClusters(t.Context())
		return len(list) == 2 && list[0].Health == HealthOK && list[1].Health == HealthOK
	})
	if checks := must[[]Check](t)(f.CheckCluster(t.Context(), "k", nil)); len(checks) < 3 || !checks[1].OK {
		t.Errorf("checks: %+v", checks)
	}
	f.noTrace(t, canary)
	must[*TopicInfo](t)(f.CreateTopic(t.Context(), admin, TopicSpec{Name: "t", Cluster: "k"}, false))
	wantReason(t, f.RemoveCluster(t.Context(), admin, "k", false), fault.Conflict)
	if err := f.DeleteTopic(t.Context(), admin, "t", true, false); err != nil {
		t.Error(err)
	}
	if err := f.RemoveCluster(t.Context(), admin, "k", false); err != nil {
		t.Error(err)
	}
	wantReason(t, f.RemoveCluster(t.Context(), admin, "k", false), fault.ClusterNotFound)
	wantReason(t, f.RemoveCluster(t.Context(), admin, EmbeddedCluster, false), fault.InvalidArgument)
}

func TestConcurrentWritesPublishEveryVersionInOrder(t *testing.T) {
	t.Parallel()
	f := setUp(t, Config{}, "")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, _, err := f.CreateToken(t.Context(), admin, auth.KindAdmin, "", 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(f.snaps.Current().Tokens); n != 40 {
		t.Errorf("%d tokens in the snapshot, want 40", n)
	}
}
