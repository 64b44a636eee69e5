// Package harness runs the real binary for tests: it builds it once, starts
// nodes in data folders of their own on ports that the kernel picks, waits
// until they serve, and ends what it started, by process id.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary builds cmd/sluice once per test process. SLUICE_TEST_BINARY names one that is there already.
var binary = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("SLUICE_TEST_BINARY"); b != "" {
		return b, nil
	}
	dir, err := os.MkdirTemp("", "sluice-test-bin-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "sluice")
	cmd := exec.Command("go", "build", "-o", out, "github.com/sluice-mq/sluice/cmd/sluice")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sluice: %w\n%s", err, b)
	}
	return out, nil
})

// Binary is the path of the built binary.
func Binary(t testing.TB) string {
	t.Helper()
	b, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Node is one server process.
type Node struct {
	t    testing.TB
	Dir  string
	args []string
	env  []string

	// GRPC, HTTP and Name are known while it serves.
	GRPC, HTTP, Name string

	cmd    *exec.Cmd
	output *lockedBuffer
	ended  chan struct{} // closed when the process is gone
	err    error         // of Wait; read after ended
}

// Start starts a node with `server ARGS` in a data folder of its own and waits until it serves. It is ended with the test.
func Start(t testing.TB, args ...string) *Node {
	t.Helper()
	n := New(t, args...)
	n.Start()
	return n
}

// New makes a node without starting it.
func New(t testing.TB, args ...string) *Node {
	t.Helper()
	n := &Node{t: t, Dir: t.TempDir(), args: args}
	t.Cleanup(func() {
		n.Kill()
		n.keepLog()
		if t.Failed() && n.output != nil {
			t.Logf("output of node %s:\n%s", n.Name, tail(n.output.String(), 60))
		}
	})
	return n
}

// keepLog writes all the node printed to NAME.log in the folder SLUICE_TEST_LOGS, where it is set.
func (n *Node) keepLog() {
	dir := os.Getenv("SLUICE_TEST_LOGS")
	if dir == "" || n.output == nil {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, n.Name+".log"), []byte(n.output.String()), 0o600); err != nil {
		n.t.Logf("the node's log is not kept: %v", err)
	}
}

// Start starts the process, after an earlier one has ended, on the same ports as before.
func (n *Node) Start() {
	n.t.Helper()
	if err := n.TryStart(); err != nil {
		n.t.Fatal(err)
	}
}

// TryStart starts the process and waits until it serves, or says why it ended.
func (n *Node) TryStart() error {
	n.t.Helper()
	grpc, http := "127.0.0.1:0", "127.0.0.1:0"
	if n.GRPC != "" {
		grpc, http = n.GRPC, n.HTTP // clients come back to the same place
	}
	args := append([]string{"server", "--data", n.Dir, "--grpc", grpc, "--http", http}, n.args...)
	if n.output == nil {
		n.output = &lockedBuffer{}
	}
	n.cmd = exec.Command(Binary(n.t), args...)
	n.cmd.Env = append(os.Environ(), n.env...)
	n.cmd.Stdout, n.cmd.Stderr = n.output, n.output
	if err := n.cmd.Start(); err != nil {
		return err
	}
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		n.err = cmd.Wait()
		close(ended)
	}(n.cmd, n.ended)
	return n.awaitReady()
}

// awaitReady polls ready.json, which the node replaces when it serves.
func (n *Node) awaitReady() error {
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var r struct {
			GRPC, HTTP, Node string
			PID              int
		}
		b, err := os.ReadFile(filepath.Join(n.Dir, "ready.json"))
		if err == nil && json.Unmarshal(b, &r) == nil && r.PID == n.cmd.Process.Pid {
			n.GRPC, n.HTTP, n.Name = r.GRPC, r.HTTP, r.Node
			return nil
		}
		select {
		case <-tick.C:
		case <-n.ended:
			return fmt.Errorf("the node ended before it served: %w\n%s", errors.Join(n.err, errors.New("see its output")), tail(n.output.String(), 30))
		case <-deadline.C:
			return fmt.Errorf("the node does not serve after 60 s\n%s", tail(n.output.String(), 30))
		}
	}
}

// Setenv adds NAME=VALUE to the environment of later starts.
func (n *Node) Setenv(kv string) { n.env = append(n.env, kv) }

// Output is what the node printed so far, over all its runs.
func (n *Node) Output() string { return n.output.String() }

// PID is the process id of the last start.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Kill sends SIGKILL and waits. A node that is gone stays gone.
func (n *Node) Kill() { n.signal(syscall.SIGKILL) }

// Stop sends SIGTERM, waits, and gives the exit code.
func (n *Node) Stop() int {
	n.signal(syscall.SIGTERM)
	return n.cmd.ProcessState.ExitCode()
}

// Signal sends a signal without waiting for anything.
func (n *Node) Signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("signal %v to node %s: %v", s, n.Name, err)
	}
}

func (n *Node) signal(s syscall.Signal) {
	if n.cmd == nil || n.cmd.Process == nil || n.ended == nil {
		return
	}
	select {
	case <-n.ended:
		return
	default:
	}
	_ = n.cmd.Process.Signal(s) // it may have ended in this moment
	select {
	case <-n.ended:
	case <-time.After(60 * time.Second):
		_ = n.cmd.Process.Kill() // the test fails below
		<-n.ended
		n.t.Errorf("node %s did not end within 60 s after %v", n.Name, s)
	}
}

// Result is how a command ended.
type Result struct {
	Out, Err string
	Code     int
}

// Lines are the lines of standard output.
func (r Result) Lines() []string {
	return strings.FieldsFunc(r.Out, func(c rune) bool { return c == '\n' })
}

// Run runs `sluice ARGS` against the node, with stdin, and gives what it printed.
func (n *Node) Run(ctx context.Context, stdin string, args ...string) Result {
	n.t.Helper()
	return Run(ctx, n.t, stdin, append(args, "--server", n.GRPC)...)
}

// Must is Run that fails the test when the command does.
func (n *Node) Must(ctx context.Context, stdin string, args ...string) Result {
	n.t.Helper()
	r := n.Run(ctx, stdin, args...)
	if r.Code != 0 {
		n.t.Fatalf("sluice %s: exit %d\n%s", strings.Join(args, " "), r.Code, tail(r.Err, 20))
	}
	return r
}

// Run runs `sluice ARGS` and gives what it printed.
func Run(ctx context.Context, t testing.TB, stdin string, args ...string) Result {
	t.Helper()
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		t.Fatalf("sluice %s: %v", strings.Join(args, " "), err)
	}
	return Result{Out: out.String(), Err: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// Require skips the test when an environment variable is missing, or fails it when SLUICE_TEST_REQUIRE lists what.
func Require(t testing.TB, what, variable string) string {
	t.Helper()
	v := os.Getenv(variable)
	if v != "" {
		return v
	}
	for r := range strings.SplitSeq(os.Getenv("SLUICE_TEST_REQUIRE"), ",") {
		if r == what {
			t.Fatalf("%s is not set, and SLUICE_TEST_REQUIRE asks for %s", variable, what)
		}
	}
	t.Skipf("%s is not set", variable)
	return ""
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Wait waits until the process ended by itself and gives the exit code.
func (n *Node) Wait() int {
	n.t.Helper()
	select {
	case <-n.ended:
	case <-time.After(60 * time.Second):
		n.Kill()
		n.t.Errorf("node %s did not end within 60 s", n.Name)
	}
	return n.cmd.ProcessState.ExitCode()
}

// SetupLink is the one-time link of a node without an administrator, from its data folder: it is there before the node
// serves, while what it prints may come a moment later.
func (n *Node) SetupLink() string {
	n.t.Helper()
	b, err := os.ReadFile(filepath.Join(n.Dir, "setup-link"))
	if err != nil {
		n.t.Fatalf("node %s: no set-up link: %v", n.Name, err)
	}
	return strings.TrimSpace(string(b))
}
