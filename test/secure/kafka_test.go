package secure

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/grpc/status"

	"github.com/sluice-mq/sluice/gen/adminv1"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
	"github.com/sluice-mq/sluice/test/harness"
)

// guarded is a Kafka broker of the test's own that wants credentials on every listener but the first.
type guarded struct {
	ca   *authority
	base int
	// clientKey is a line out of the middle of the client certificate's key.
	clientKey string
}

// The broker's listeners, by their distance from the base port.
const (
	plaintext = iota // for the script, and to administrate the broker
	saslPlain
	saslScram
	mutualTLS
	scramTLS
	listeners
)

func (g *guarded) addr(listener int) string { return fmt.Sprintf("127.0.0.1:%d", g.base+listener) }

// canary is a password that must be found nowhere.
const canary = "canary-7Qw9"

// startGuarded starts the broker by the scripts in test/brokers and destroys it with the test.
func startGuarded(t *testing.T) *guarded {
	t.Helper()
	scripts := harness.Require(t, "kafka", "SLUICE_TEST_BROKERS")
	g := &guarded{ca: newAuthority(t, "brokers' CA"), base: freeBase(t)}
	p := g.ca.issue(forServer)
	keystore := filepath.Join(g.ca.dir, "broker.pem")
	write(t, keystore, append(bytes.Clone(p.key), p.cert...))

	names := []string{"CLIENT", "PLAIN", "SCRAM", "MUTUAL", "SCRAMTLS"}
	protocols := []string{"PLAINTEXT", "SASL_PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"}
	var ls, advertised, protocol []string
	for i, n := range names {
		ls = append(ls, n+"://"+g.addr(i))
		protocol = append(protocol, n+":"+protocols[i])
	}
	ls = append(ls, fmt.Sprintf("INNER://127.0.0.1:%d", g.base+20))
	advertised = ls
	ls = append(slices.Clip(ls), fmt.Sprintf("CONTROLLER://127.0.0.1:%d", g.base+40))
	conf := []string{
		"listeners=" + strings.Join(ls, ","),
		"advertised.listeners=" + strings.Join(advertised, ","),
		"listener.security.protocol.map=" + strings.Join(append(protocol, "INNER:PLAINTEXT", "CONTROLLER:PLAINTEXT"), ","),
		"listener.name.plain.sasl.enabled.mechanisms=PLAIN",
		`listener.name.plain.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_sluice="` + canary + `-plain";`,
	}
	for _, l := range []string{"scram", "scramtls"} {
		conf = append(conf, "listener.name."+l+".sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512")
		for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
			conf = append(conf, "listener.name."+l+"."+m+".sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;")
		}
	}
	for _, l := range []string{"mutual", "scramtls"} {
		conf = append(conf, "listener.name."+l+".ssl.keystore.type=PEM", "listener.name."+l+".ssl.keystore.location="+keystore,
			"listener.name."+l+".ssl.truststore.type=PEM", "listener.name."+l+".ssl.truststore.location="+g.ca.file)
	}
	conf = append(conf, "listener.name.mutual.ssl.client.auth=required")

	run := t.TempDir()
	kafka := func(ctx context.Context, args ...string) {
		cmd := exec.CommandContext(ctx, filepath.Join(scripts, "kafka.sh"), args...)
		cmd.Env = append(os.Environ(), "BROKERS_RUN="+run)
		out, err := os.Create(filepath.Join(run, args[0]+".out")) // a file: the broker keeps a pipe open
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			text, _ := os.ReadFile(out.Name())
			log, _ := os.ReadFile(filepath.Join(run, "kafka", "guarded", "1", "out.log"))
			t.Errorf("kafka.sh %s: %v\n%s\n%s", args[0], err, text, log)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		kafka(ctx, "destroy", "guarded")
	})
	args := []string{"start", "guarded", "4.4.0", "--base-port", fmt.Sprint(g.base)}
	for _, c := range conf {
		args = append(args, "--conf", c)
	}
	ctx := within(t, 3*time.Minute)
	kafka(ctx, args...)
	kafka(ctx, "wait", "guarded", "--timeout", "120")
	if t.Failed() {
		t.FailNow()
	}
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		g.setPassword(t, ctx, m, "sluice", fmt.Sprintf("%s-scram-%d", canary, m))
	}
	return g
}

// freeBase finds a port below the kernel's range for outgoing connections with all that the broker needs free.
func freeBase(t *testing.T) int {
	t.Helper()
	free := func(port int) bool {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		return l.Close() == nil
	}
next:
	// Each process begins elsewhere, so that two runs at once do not meet.
	for i := range 80 {
		base := 12_000 + (os.Getpid()+i)%80*100
		for _, p := range []int{plaintext, saslPlain, saslScram, mutualTLS, scramTLS, 20, 40} {
			if !free(base + p) {
				continue next
			}
		}
		return base
	}
	t.Fatal("no free ports for a broker")
	return 0
}

// setPassword makes or changes a SCRAM user of the broker.
func (g *guarded) setPassword(t *testing.T, ctx context.Context, m kadm.ScramMechanism, user, password string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(g.addr(plaintext)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rs, err := kadm.NewClient(c).AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: user, Mechanism: m, Iterations: 4096, Password: password}})
	if err == nil {
		err = rs.Error()
	}
	if err != nil {
		t.Fatalf("user %s: %v", user, err)
	}
}

// way is one way to be let in by the broker.
type way struct {
	cluster  string
	listener int
	flags    []string
	password string
}

func (g *guarded) ways() []way {
	user := []string{"--sasl-user", "sluice", "--sasl-password-file", "-"}
	p := g.ca.issue(forClient)
	g.clientKey = strings.Split(string(p.key), "\n")[2]
	cert, key := g.ca.files(p)
	scram := func(m kadm.ScramMechanism) string { return fmt.Sprintf("%s-scram-%d", canary, m) }
	return []way{
		{"plain", saslPlain, append([]string{"--sasl", "PLAIN"}, user...), canary + "-plain"},
		{"scram256", saslScram, append([]string{"--sasl", "SCRAM-SHA-256"}, user...), scram(kadm.ScramSha256)},
		{"scram512", saslScram, append([]string{"--sasl", "SCRAM-SHA-512"}, user...), scram(kadm.ScramSha512)},
		{"mutual", mutualTLS, []string{"--tls", "--tls-ca", g.ca.file, "--tls-cert", cert, "--tls-key", key}, ""},
		{"scramtls", scramTLS, append([]string{"--tls-ca", g.ca.file, "--sasl", "SCRAM-SHA-512"}, user...), scram(kadm.ScramSha512)},
	}
}

func TestGuardedKafka(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	s := setUp(t, nil, "--set", "embedded.enabled=false", "--set", "log.level=debug")
	ctx := within(t, 2*time.Minute)
	app := s.app(ctx, "billing")
	var said strings.Builder // all that commands printed
	keep := func(r harness.Result) harness.Result {
		said.WriteString(r.Out + r.Err)
		return r
	}
	ways := g.ways()
	for _, w := range ways {
		args := append([]string{"cluster", "add", w.cluster, "--kind", "kafka", "--bootstrap", g.addr(w.listener)}, w.flags...)
		g.refuseWrong(t, ctx, s, w, args, keep)
		keep(s.administrate(ctx, w.password, args...))
		s.roundTrip(t, ctx, app, w.cluster, keep)
	}
	g.refuseUntrusted(t, ctx, s, keep)
	g.changePassword(t, ctx, s, app, ways[1], keep)

	for _, args := range [][]string{{"cluster", "list", "-o", "json"}, {"cluster", "describe", "plain", "-o", "json"}, {"cluster", "describe", "mutual", "-o", "yaml"}, {"cluster", "check", "scram256"}} {
		keep(s.administrate(ctx, "", args...))
	}
	joined := g.joinWithKey(t, ctx, s, app, keep)
	for range 2 { // while it runs, and what is left after a clean stop
		nothingLies(t, s.Node, said.String(), g.clientKey)
		nothingLies(t, joined, "", g.clientKey)
		joined.Stop()
		s.Stop()
	}
}

// joinWithKey joins a node, which needs the installation's key to reach a cluster with a password: without it, it says so.
func (g *guarded) joinWithKey(t *testing.T, ctx context.Context, s *site, app string, keep func(harness.Result) harness.Result) *harness.Node {
	t.Helper()
	topic := unique("joined")
	keep(s.administrate(ctx, "", "topic", "create", topic, "--cluster", "plain", "--partitions", "1"))
	start := func(args ...string) *harness.Node {
		n := harness.New(t, append(args, "--role", "producer", "--control", s.GRPC)...)
		n.Setenv("SLUICE_CFG_CONTROL_TOKEN=" + strings.TrimSpace(s.administrate(ctx, "", "token", "create", "--node", "joined", "-q").Out))
		n.Start()
		s.spread(t, ctx, n)
		return n
	}
	publish := func(n *harness.Node) harness.Result { return keep(s.publishOne(t, ctx, n, app, topic)) }
	keyless := start()
	if r := publish(keyless); r.Code == 0 || !strings.Contains(r.Out, "secret.key") || !strings.Contains(r.Out, "plain") || !strings.Contains(r.Out, "cluster_auth") {
		t.Errorf("a joined node without the key: exit %d, %s%s", r.Code, r.Out, r.Err)
	}
	keyless.Stop()
	n := start("--set", "secret_key_file="+filepath.Join(s.Dir, "secret.key"))
	if r := publish(n); r.Code != 0 {
		t.Errorf("a joined node with the key: exit %d, %s%s", r.Code, r.Out, r.Err)
	}
	return n
}

// publishOne sends one message to one node alone: the command line would go on to another that can.
func (s *site) publishOne(t *testing.T, ctx context.Context, n *harness.Node, token, topic string) harness.Result {
	t.Helper()
	code, text, err := call(ctx, s.tls(), http.MethodPost, s.scheme()+n.HTTP+"/v1/topics/"+topic+"/messages", token, `{"messages":[{"body":"x"}],"timeout":"5s"}`)
	if err != nil {
		t.Fatal(err)
	}
	r := harness.Result{Out: text}
	if code != http.StatusOK {
		r.Code = 1
	}
	return r
}

// roundTrip publishes to a new topic of a cluster and consumes it.
func (s *site) roundTrip(t *testing.T, ctx context.Context, app, cluster string, keep func(harness.Result) harness.Result) string {
	t.Helper()
	const count = 500
	topic := unique(cluster)
	keep(s.administrate(ctx, "", "topic", "create", topic, "--cluster", cluster, "--partitions", "3"))
	stored := harness.Decode[harness.Stored](t, keep(s.Must(ctx, lines(count), s.reach(app, "pub", topic, "-o", "json")...)).Lines())
	got := harness.Decode[harness.Message](t, keep(s.Must(ctx, "", s.reach(app, "sub", topic, "--group", topic, "--count", fmt.Sprint(count), "--timeout", "30s", "-o", "json")...)).Lines())
	c := harness.Count(harness.ByStatus(stored, "stored"), nil, harness.IDs(got))
	t.Logf("%s: %s", cluster, c)
	c.Exactly(t)
	if c.Stored != count {
		t.Errorf("%s: %d of %d are stored", cluster, c.Stored, count)
	}
	return topic
}

// refuseWrong registers with a wrong password, or without the certificate: cluster_auth, naming the cluster and what to do.
func (g *guarded) refuseWrong(t *testing.T, ctx context.Context, s *site, w way, args []string, keep func(harness.Result) harness.Result) {
	t.Helper()
	if w.password == "" {
		return // a broker that wants a certificate says no more than that the connection ended
	}
	r := keep(s.as(ctx, s.admin, canary+"-wrong", args...))
	for _, want := range []string{w.cluster, g.addr(w.listener), "credentials", "password"} {
		if r.Code != 1 || !strings.Contains(r.Err, want) {
			t.Errorf("%s with a wrong password: exit %d, %q has no %q", w.cluster, r.Code, r.Err, want)
		}
	}
	spec := &adminv1.ClusterSpec{Name: w.cluster, Kind: "kafka", Bootstrap: []string{g.addr(w.listener)}, SaslMechanism: w.flags[len(w.flags)-5], SaslUser: "sluice", SaslPassword: canary + "-wrong"}
	if w.listener == scramTLS {
		spec.Tls = true
		spec.TlsCa, _ = os.ReadFile(g.ca.file) // written by this test
	}
	_, err := adminv1.NewAdminServiceClient(dial(t, s.GRPC, nil)).AddCluster(bearer(ctx, s.admin), &adminv1.AddClusterRequest{Cluster: spec})
	if got := reasonOf(err); got != sluicev1.Reason_REASON_CLUSTER_AUTH {
		t.Errorf("%s with a wrong password: %v, want cluster_auth", w.cluster, err)
	}
}

func reasonOf(err error) sluicev1.Reason {
	for _, d := range status.Convert(err).Details() {
		if e, ok := d.(*sluicev1.Error); ok {
			return e.GetReason()
		}
	}
	return sluicev1.Reason_REASON_UNSPECIFIED
}

// refuseUntrusted registers with what cannot work for want of TLS: each is refused and says why.
func (g *guarded) refuseUntrusted(t *testing.T, ctx context.Context, s *site, keep func(harness.Result) harness.Result) {
	t.Helper()
	other := newAuthority(t, "another CA")
	for name, tc := range map[string]struct {
		listener int
		flags    []string
		says     string
	}{
		"CA of somebody else":           {mutualTLS, []string{"--tls-ca", other.file}, "certificate"},
		"no client certificate":         {mutualTLS, []string{"--tls-ca", g.ca.file}, "certificate"},
		"plain text to a TLS port":      {mutualTLS, nil, "TLS"},
		"TLS to a plain text port":      {plaintext, []string{"--tls-ca", g.ca.file}, "TLS"},
		"no SASL where it is asked for": {saslPlain, nil, "SASL"},
		"mechanism that is not enabled": {saslPlain, []string{"--sasl", "SCRAM-SHA-256", "--sasl-user", "sluice", "--sasl-password-file", "-"}, "SASL"},
	} {
		args := append([]string{"cluster", "add", "odd", "--kind", "kafka", "--bootstrap", g.addr(tc.listener)}, tc.flags...)
		begun := time.Now()
		r := keep(s.as(ctx, s.admin, canary+"-wrong", args...))
		t.Logf("%s, after %v: %s", name, time.Since(begun).Round(100*time.Millisecond), strings.TrimSpace(r.Err))
		if r.Code != 1 || !strings.Contains(r.Err, "odd") || !strings.Contains(strings.ToLower(r.Err), strings.ToLower(tc.says)) {
			t.Errorf("%s: exit %d, %q, want it to name the cluster and %s", name, r.Code, r.Err, tc.says)
		}
	}
}

// changePassword has the broker change a password behind the node's back: publishing says cluster_auth until the new one is set.
func (g *guarded) changePassword(t *testing.T, ctx context.Context, s *site, app string, w way, keep func(harness.Result) harness.Result) {
	t.Helper()
	topic := s.roundTrip(t, ctx, app, w.cluster, keep)
	g.setPassword(t, ctx, kadm.ScramSha256, "sluice", canary+"-changed")
	s.Stop() // connections that are open hold until they end
	s.Start()
	r := keep(s.as(ctx, app, "x\n", "pub", topic, "-o", "json", "--timeout", "5s"))
	results := harness.Decode[harness.Stored](t, r.Lines())
	if len(results) != 1 || results[0].Status != "not_sent" || results[0].Error == nil || results[0].Error.Code != "cluster_auth" || !strings.Contains(results[0].Error.Message, w.cluster) {
		t.Errorf("publishing with the old password: exit %d, %s%s", r.Code, r.Out, r.Err)
	}
	waitUntil(t, within(t, 20*time.Second), "the list of clusters tells it", func() bool {
		var c struct {
			Cluster struct{ Name string }
			Health  string `json:"health"`
			Text    string `json:"health_text"`
		}
		for _, l := range flat(keep(s.administrate(ctx, "", "cluster", "list", "-o", "json")).Out) {
			if json.Unmarshal([]byte(l), &c) == nil && c.Cluster.Name == w.cluster {
				return c.Health == "down" && strings.Contains(c.Text, "SASL_AUTHENTICATION_FAILED")
			}
		}
		return false
	})
	keep(s.administrate(ctx, canary+"-changed", "cluster", "set", w.cluster, "--sasl-password-file", "-"))
	waitUntil(t, ctx, "the new password is used", func() bool {
		return keep(s.as(ctx, app, "x\n", "pub", topic, "-o", "json", "--timeout", "5s")).Code == 0
	})
}

// nothingLies looks for the passwords, and for other secrets, in the data folder, in the log and in what commands said.
func nothingLies(t *testing.T, n *harness.Node, said string, others ...string) {
	t.Helper()
	spellings := [][]byte{[]byte(canary)}
	for _, o := range others {
		if len(o) < 16 {
			t.Fatalf("%q is too short to look for", o)
		}
		spellings = append(spellings, []byte(o))
	}
	for _, pad := range []string{"", "x", "xy"} { // the three alignments of base64
		e := base64.RawStdEncoding.EncodeToString([]byte(pad + canary))
		spellings = append(spellings, []byte(e[4:len(e)-2]))
	}
	look := func(where string, b []byte) {
		for _, sp := range spellings {
			if i := bytes.Index(b, sp); i >= 0 {
				t.Errorf("%s holds a password: %q", where, b[max(0, i-80):min(len(b), i+80)])
			}
		}
	}
	look("the log", []byte(n.Output()))
	look("what commands print", []byte(said))
	files := 0
	err := filepath.WalkDir(n.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		look(path, b)
		return nil
	})
	if err != nil || files < 2 {
		t.Errorf("looked into %d files: %v", files, err)
	}
}
