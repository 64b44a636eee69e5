package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

func TestSecondServerOnTheSameFolderIsRefused(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	r := harness.Run(within(t, time.Minute), t, "", "server", "--dev", "--data", n.Dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if r.Code != 1 || !oneLine(r.Err, "error: data folder: data folder "+n.Dir+" is in use by process ") {
		t.Errorf("exit %d, %s", r.Code, r.Err)
	}
	if got := n.Must(within(t, time.Minute), "x\n", "pub", "demo", "-o", "json").Lines(); len(got) != 1 {
		t.Errorf("the first server was harmed: %v", got)
	}
	if _, err := os.Stat(filepath.Join(n.Dir, "ready.json")); err != nil {
		t.Errorf("the second one took ready.json away: %v", err)
	}
}

// oneLine tells whether exactly one line of the errors begins so.
func oneLine(errors, begin string) bool {
	n := 0
	for line := range strings.Lines(errors) {
		if strings.HasPrefix(line, begin) {
			n++
		}
	}
	return n == 1
}

func TestFolderOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := harness.Run(within(t, time.Minute), t, "", "server", "--dev", "--data", dir, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if r.Code != 1 || !strings.Contains(r.Err, `has format "99"`) {
		t.Errorf("exit %d, %s", r.Code, r.Err)
	}
}

func TestBrokenConfigurationIsRefusedWithItsLines(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte("# ours\ngrpc: nowhere\nlog:\n  levle: debug\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"server", "--config", path}, {"--config", path}, {"config", "check", path}} {
		r := harness.Run(within(t, time.Minute), t, "", args...)
		if r.Code != 1 || !oneLine(r.Err, "error: config "+path+":2: grpc: ") || !oneLine(r.Err, "error: config "+path+":4: log.levle: unknown key") {
			t.Errorf("%v: exit %d, %s", args, r.Code, r.Err)
		}
	}
}

func TestPortInUseIsSaid(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for _, flag := range []string{"--grpc", "--http"} {
		args := []string{"server", "--dev", "--data", t.TempDir(), "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", flag, l.Addr().String()}
		r := harness.Run(within(t, time.Minute), t, "", args...)
		if r.Code != 1 || !strings.Contains(r.Err, l.Addr().String()) || !strings.Contains(r.Err, "in use") {
			t.Errorf("%s: exit %d, %s", flag, r.Code, r.Err)
		}
	}
}

func TestAnotherAddressThanTheLoopbackNeedsMore(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--grpc", "0.0.0.0:0"}, {"--dev", "--http", "0.0.0.0:0"}, {"--dev", "--insecure-listen", "--grpc", "0.0.0.0:0"}} {
		r := harness.Run(within(t, time.Minute), t, "", append([]string{"server", "--data", t.TempDir()}, args...)...)
		if r.Code != 1 || !strings.Contains(r.Err, "not on the loopback") {
			t.Errorf("%v: exit %d, %s", args, r.Code, r.Err)
		}
	}
}

func TestReadyFileAndReadinessFollowTheServer(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	path := filepath.Join(n.Dir, "ready.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if r["grpc"] != n.GRPC || r["http"] != n.HTTP || r["pid"] != float64(n.PID()) || r["node"] == "" || len(r) != 4 {
		t.Errorf("ready.json is %s", b)
	}
	for _, probe := range []string{"live", "ready"} {
		if status, body := get(t, n, "/healthz/"+probe, ""); status != http.StatusOK {
			t.Errorf("%s: %d %s", probe, status, body)
		}
	}
	if code := n.Stop(); code != 0 {
		t.Errorf("exit %d after SIGTERM, want 0", code)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("ready.json stays behind: %v", err)
	}
}

func TestSIGINTDrainsAndHangupReloads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte("log:\n  level: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := harness.Start(t, "--dev", "--config", path)
	ctx := within(t, time.Minute)
	for _, step := range []struct{ file, want string }{
		{"log:\n  level: debug\n", "log.level"}, {"log:\n  level: loud\n", "is not reloaded"}, {"log:\n  level: debug\ndrain_timeout: 9s\n", "drain_timeout"},
	} {
		if err := os.WriteFile(path, []byte(step.file), 0o600); err != nil {
			t.Fatal(err)
		}
		n.Signal(syscall.SIGHUP)
		waitUntil(t, ctx, "the log says "+step.want, func() bool { return strings.Contains(n.Output(), step.want) })
	}
	n.Must(ctx, "still here\n", "pub", "demo")
	n.Signal(syscall.SIGINT)
	if code := n.Wait(); code != 0 {
		t.Errorf("exit %d after SIGINT, want 0", code)
	}
}

func TestStoppingServerLosesNothingAndItsClientsGoOn(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev")
	ctx := within(t, 3*time.Minute)
	n.Must(ctx, "warm\n", "pub", "demo")
	const count = 40_000
	published := make(chan harness.Result, 1)
	go func() { published <- n.Run(ctx, numbers(1, count), "pub", "demo", "-o", "json", "--timeout", "60s") }()
	waitUntil(t, ctx, "messages are stored", func() bool { return endOffsets(t, ctx, n, "demo") > 1000 })
	if code := n.Stop(); code != 0 {
		t.Errorf("exit %d after SIGTERM, want 0", code)
	}
	n.Start()
	p := <-published
	results := harness.Decode[harness.Stored](t, p.Lines())
	stored := harness.ByStatus(results, "stored")
	if p.Code != 0 || len(stored) != count {
		t.Errorf("exit %d, %d of %d are stored: %s", p.Code, len(stored), count, p.Err)
	}
	got := harness.IDs(harness.Decode[harness.Message](t, n.Run(ctx, "", "sub", "demo", "--group", "g", "--timeout", "5s", "-o", "json").Lines()))
	c := harness.Count(stored, warmID(got, results), got)
	t.Log(c)
	c.NoneLost(t)
}

func TestProfilesHaveAListenerOfTheirOwn(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "--dev", "--set", "pprof=127.0.0.1:0")
	_, addr, ok := strings.Cut(n.Output(), "pprof=")
	if !ok {
		t.Fatalf("the log does not say where profiles are:\n%s", n.Output())
	}
	addr, _, _ = strings.Cut(addr, "\n")
	if status, _, _ := call(t, http.MethodGet, "http://"+addr+"/debug/pprof/goroutine?debug=1", "", ""); status != http.StatusOK {
		t.Errorf("profiles: %d", status)
	}
	if status, _ := get(t, n, "/debug/pprof/", ""); status == http.StatusOK {
		t.Error("the public listener serves profiles")
	}
	r := harness.Run(within(t, time.Minute), t, "", "server", "--dev", "--data", t.TempDir(), "--set", "pprof=0.0.0.0:0")
	if r.Code != 1 || !strings.Contains(r.Err, "not on the loopback") {
		t.Errorf("profiles for everybody: exit %d, %s", r.Code, r.Err)
	}
}
