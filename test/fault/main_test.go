// Package fault breaks brokers and nodes under load, on a real Kafka cluster of its own and with the real binary, and
// counts every message: what was sent and how that ended, what a native reader finds, what was delivered and in which
// order. It needs SLUICE_TEST_BROKERS, the folder of the broker scripts.
package fault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mq/sluice/test/harness"
)

// brokers is a Kafka cluster that tests may break.
type brokers struct {
	script, run, bootstrap string
}

const clusterName = "fault"

var (
	shared struct {
		once sync.Once
		b    *brokers
		err  error
	}
	runDir string // set where a cluster was started
)

func TestMain(m *testing.M) {
	code := m.Run()
	if b := shared.b; b != nil {
		if _, err := b.try("destroy", clusterName); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if runDir != "" {
		_ = os.RemoveAll(runDir)
	}
	os.Exit(code)
}

// kafka gives the cluster of three brokers, all of them up, starting it for the first test that asks.
func kafka(t *testing.T) *brokers {
	t.Helper()
	dir := harness.Require(t, "kafka", "SLUICE_TEST_BROKERS")
	shared.once.Do(func() { shared.b, shared.err = startBrokers(dir) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	shared.b.mend(t)
	t.Cleanup(func() { shared.b.mend(t) })
	return shared.b
}

func startBrokers(dir string) (*brokers, error) {
	base, err := freePorts()
	if err != nil {
		return nil, err
	}
	if runDir, err = os.MkdirTemp("", "sluice-fault-"); err != nil {
		return nil, err
	}
	b := &brokers{script: filepath.Join(dir, "kafka.sh"), run: runDir}
	if _, err := b.try("start", clusterName, "4.4.0", "--brokers", "3", "--base-port", strconv.Itoa(base)); err != nil {
		return b, err
	}
	if _, err := b.try("wait", clusterName, "--timeout", "120"); err != nil {
		return b, err
	}
	out, err := b.try("bootstrap", clusterName)
	b.bootstrap = strings.TrimSpace(out)
	return b, err
}

// freePorts finds a base port below the range of outgoing connections with what three brokers listen on free.
func freePorts() (int, error) {
	for base := 25092; base < 32000; base += 100 {
		if allFree(base) {
			return base, nil
		}
	}
	return 0, fmt.Errorf("no free ports for brokers between 25092 and 32000")
}

func allFree(base int) bool {
	for _, group := range []int{0, 20, 40} {
		for i := range 3 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+group+i))
			if err != nil {
				return false
			}
			_ = l.Close()
		}
	}
	return true
}

func (b *brokers) try(args ...string) (string, error) {
	cmd := exec.Command(b.script, args...)
	cmd.Env = append(os.Environ(), "BROKERS_RUN="+b.run)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kafka.sh %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// do runs COMMAND NAME ARGS of the script.
func (b *brokers) do(t *testing.T, command string, args ...string) {
	t.Helper()
	if _, err := b.try(append([]string{command, clusterName}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// mend resumes paused brokers, starts dead ones and waits for all.
func (b *brokers) mend(t *testing.T) {
	t.Helper()
	for id := range 3 {
		_, _ = b.try("resume", clusterName, strconv.Itoa(id+1)) // it may not run, or not be paused
	}
	b.do(t, "start", "4.4.0", "--brokers", "3")
	b.do(t, "wait", "--timeout", "120")
}

func unique(name string) string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return name + "-" + hex.EncodeToString(b)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok, for as long as d.
func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for !ok() {
		if !pause(ctx, 50*time.Millisecond) {
			t.Fatalf("waited %v in vain until %s", d, what)
		}
	}
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// trio starts three nodes with the cluster k: the first has all roles, the others move messages.
func trio(t *testing.T, b *brokers, args ...string) [3]*harness.Node {
	t.Helper()
	var ns [3]*harness.Node
	ns[0] = harness.Start(t, append([]string{"--dev", "--set", "embedded.enabled=false"}, args...)...)
	for i := range 2 {
		ns[i+1] = harness.Start(t, append([]string{"--dev", "--role", "producer,consumer", "--control", ns[0].GRPC}, args...)...)
	}
	ns[0].Must(within(t, 30*time.Second), "", "cluster", "add", "k", "--kind", "kafka", "--bootstrap", b.bootstrap)
	return ns
}

// topic makes a topic with three replicas whose records carry the time of their append.
func topic(t *testing.T, n *harness.Node, name string, partitions int) string {
	t.Helper()
	name = unique(name)
	n.Must(within(t, 30*time.Second), "", "topic", "create", name, "--cluster", "k", "--partitions", strconv.Itoa(partitions), "--replicas", "3",
		"--config", "message.timestamp.type=LogAppendTime", "--config", "min.insync.replicas=2")
	return name
}

func servers(ns ...*harness.Node) string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = n.GRPC
	}
	return strings.Join(out, ",")
}
