package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sluice-mq/sluice/sdk/go"
	"github.com/sluice-mq/sluice/sdk/go/sluicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a command line in front of a fake installation.
type stage struct {
	fake *sluicetest.Server
	t    *testing.T
}

func newStage(t *testing.T, nodes int) *stage {
	t.Helper()
	s := &stage{fake: sluicetest.New(sluicetest.Config{Nodes: nodes}), t: t}
	t.Cleanup(s.fake.Close)
	return s
}

func (s *stage) run(ctx context.Context, in io.Reader, out io.Writer, args ...string) (code int, stderr string) {
	s.t.Helper()
	var errOut bytes.Buffer
	a := newApp([]string{"XDG_CONFIG_HOME=" + s.t.TempDir(), "PATH=/usr/bin:/bin"}, Streams{In: in, Out: out, Err: &errOut})
	a.sdkOptions = s.fake.Options()
	root := a.root()
	root.SetArgs(append(args, "--server", s.fake.Addrs()))
	err := root.ExecuteContext(ctx)
	return a.finish(ctx, err), errOut.String()
}

func (s *stage) mustRun(in string, args ...string) string {
	s.t.Helper()
	var out bytes.Buffer
	code, stderr := s.run(s.t.Context(), strings.NewReader(in), &out, args...)
	if code != exitOK {
		s.t.Fatalf("sluice %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	s.t.Log(stderr) // notes matter when the test fails later
	return out.String()
}

// decode reads JSON lines.
func decode(t *testing.T, text string) (out []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, m)
	}
	return out
}

func sequence(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func TestPubPrintsResultsInOrderAndFieldsOfTheContract(t *testing.T) {
	t.Parallel()
	s := newStage(t, 2)
	const n = 5000
	got := decode(t, s.mustRun(sequence(n), "pub", "demo", "-o", "json"))
	if len(got) != n {
		t.Fatalf("%d results, want %d", len(got), n)
	}
	bodies := map[string]string{}
	for _, m := range s.fake.Published("demo") {
		bodies[m.ID] = string(m.Body)
	}
	for i, r := range got {
		if r["status"] != "stored" || r["error"] != nil || bodies[r["id"].(string)] != strconv.Itoa(i) {
			t.Fatalf("result %d is %v, its message has body %q", i, r, bodies[r["id"].(string)])
		}
	}
	for _, name := range []string{"id", "topic", "cluster", "partition", "offset", "status", "error"} {
		if _, ok := got[0][name]; !ok {
			t.Errorf("no field %s", name)
		}
	}
	if _, text := got[0]["offset"].(string); !text {
		t.Errorf("offset is %T", got[0]["offset"])
	}
}

func TestPubSaysWhatWasNotStored(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.fake.FailNext(1, &sluice.Error{Reason: sluice.ReasonMessageTooLarge, Message: "topic demo: takes 1 MiB", Status: sluice.StatusRefused})
	var out bytes.Buffer
	code, stderr := s.run(t.Context(), strings.NewReader("a\nb\n"), &out, "pub", "demo", "-o", "json")
	if code != exitFailed || !strings.Contains(stderr, "error: topic demo: 1 of 2 messages were not stored, the first one: topic demo: takes 1 MiB") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	got := decode(t, out.String())
	refused := got[0]
	want := map[string]any{"code": "message_too_large", "message": "topic demo: takes 1 MiB", "retry_after_ms": 0.0, "maybe_sent": false}
	if refused["status"] != "refused" || refused["offset"] != nil || cmp.Diff(want, refused["error"]) != "" {
		t.Errorf("%v", refused)
	}
	if got[1]["status"] != "stored" {
		t.Errorf("a bad message failed its neighbour: %v", got[1])
	}
}

func TestPubCarriesAllOfAMessage(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.mustRun("", "pub", "demo", "body", "--key", "", "--header", "a=1=2", "--header", "a=", "--tag", "t", "--id", "my-id", "--partition", "2")
	m := s.fake.Published("demo")[0]
	want := sluicetest.Message{ID: "my-id", Key: []byte{}, Body: []byte("body"), Tag: "t", Partition: "2", Headers: []sluice.Header{{Name: "a", Value: []byte("1=2")}, {Name: "a"}}}
	m.Producer, m.Sequence, m.Offset = "", 0, 0
	if d := cmp.Diff(want, m); d != "" {
		t.Error(d)
	}
}

func TestPubFailsWhereItsInputIsBroken(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	var out bytes.Buffer
	code, stderr := s.run(t.Context(), strings.NewReader("{\"body\":\"a\"}\n{\"bdoy\":\"b\"}\n"), &out, "pub", "demo", "--json", "-o", "json")
	if code != exitFailed || !strings.Contains(stderr, "error: line 2: not a message: unknown field /bdoy") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if got := decode(t, out.String()); len(got) != 1 || got[0]["status"] != "stored" {
		t.Errorf("what stood before was not published and reported: %v", got)
	}
}

// brokenWriter fails after some bytes, as a closed pipe does.
type brokenWriter struct{ left int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("broken pipe")
	}
	return len(p), nil
}

func TestPubEndsWhenNobodyReadsItsOutput(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	code, stderr := s.run(t.Context(), strings.NewReader(sequence(50_000)), &brokenWriter{left: 100_000}, "pub", "demo", "-o", "json")
	if code != exitFailed || !strings.Contains(stderr, "output: broken pipe") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestSubDeliversTheCountOnceAndAcceptsIt(t *testing.T) {
	t.Parallel()
	s := newStage(t, 2)
	const n = 900
	s.mustRun(sequence(n), "pub", "demo")
	seen := map[string]bool{}
	for _, count := range []int{300, 599, 1} { // the rest is left for the next one, without a repeat
		got := decode(t, s.mustRun("", "sub", "demo", "--group", "g", "--count", strconv.Itoa(count), "--timeout", "20s", "-o", "json"))
		if len(got) != count {
			t.Fatalf("%d messages, want %d", len(got), count)
		}
		for _, m := range got {
			body := m["body"].(string)
			if seen[body] {
				t.Errorf("message %s came twice", body)
			}
			seen[body] = true
		}
	}
	accepted := 0
	for _, x := range s.fake.Settled("g") {
		if x.Action == "accept" {
			accepted++
		}
	}
	if len(seen) != n || accepted != n {
		t.Errorf("%d messages seen, %d accepted, want %d", len(seen), accepted, n)
	}
}

func TestSubSaysWhenTheCountWasNotReached(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.mustRun("a\n", "pub", "demo")
	var out bytes.Buffer
	code, stderr := s.run(t.Context(), strings.NewReader(""), &out, "sub", "demo", "--group", "g", "--count", "2", "--timeout", "300ms", "-o", "json")
	if code != exitFailed || !strings.Contains(stderr, "1 of 2 messages came before the time-out") || len(decode(t, out.String())) != 1 {
		t.Errorf("exit code %d, stderr %q, output %q", code, stderr, out.String())
	}
	if code, stderr := s.run(t.Context(), strings.NewReader(""), io.Discard, "sub", "demo", "--group", "g", "--timeout", "200ms"); code != exitOK {
		t.Errorf("no count was asked for: exit code %d, stderr %q", code, stderr)
	}
}

func TestSubAcceptsNothingItCouldNotPrint(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.mustRun(sequence(100), "pub", "demo")
	code, stderr := s.run(t.Context(), strings.NewReader(""), &brokenWriter{}, "sub", "demo", "--group", "g", "--count", "100", "-o", "json")
	if code != exitFailed || !strings.Contains(stderr, "output: broken pipe") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	for _, x := range s.fake.Settled("g") {
		if x.Action == "accept" {
			t.Fatalf("accepted %s, which nobody has seen", x.ID)
		}
	}
}

func TestSubAnswersAsTheCommandEnds(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.mustRun("accept\nrelease\nreject\nother\n", "pub", "demo", "--key", "k")
	const cmd = `read line; case $line in accept) exit 0;; release) exit 75;; reject) exit 100;; *) exit 3;; esac`
	s.mustRun("", "sub", "demo", "--group", "g", "--count", "1", "--timeout", "10s", "--exec", cmd, "-o", "json")
	code, _ := s.run(t.Context(), strings.NewReader(""), io.Discard, "sub", "demo", "--group", "g2", "--timeout", "1s", "--exec", cmd)
	if code != exitOK {
		t.Errorf("exit code %d", code)
	}
	bodies := map[string]string{}
	for _, m := range s.fake.Published("demo") {
		bodies[m.ID] = string(m.Body)
	}
	got := map[string]string{}
	for _, x := range s.fake.Settled("g2") {
		if body := bodies[x.ID]; got[body] == "" { // what was released comes again, and is given back at the end
			got[body] = x.Action
		}
	}
	want := map[string]string{"accept": "accept", "release": "release", "reject": "reject", "other": "release"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSubFormat(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.mustRun("k:v\n", "pub", "demo", "--key-delim", ":")
	if got := s.mustRun("", "sub", "demo", "--group", "g", "--count", "1", "--format", `%t %k{hex} %v\n`); got != "demo 6b v\n" {
		t.Errorf("got %q", got)
	}
}

// firstWrite tells when something was written.
type firstWrite struct {
	once sync.Once
	seen chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.seen) })
	return len(p), nil
}

func TestInterruptedSubEndsCleanly(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.mustRun("a\n", "pub", "demo")
	ctx, interrupt := context.WithCancel(t.Context())
	out := &firstWrite{seen: make(chan struct{})}
	go func() {
		<-out.seen
		interrupt()
	}()
	code, stderr := s.run(ctx, strings.NewReader(""), out, "sub", "demo", "--group", "g")
	if code != exitInterrupted {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(s.fake.Settled("g")) == 0 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond) // a poll with a deadline: the answer was given before the command ended
	}
	if x := s.fake.Settled("g"); len(x) != 1 || x[0].Action != "accept" {
		t.Errorf("the printed message was settled as %v", x)
	}
}

func TestGivenUpErrorTellsTheLastAnswer(t *testing.T) {
	t.Parallel()
	err := &sluice.Error{
		Reason: sluice.ReasonDeadlineExceeded, Message: "no result by its deadline",
		Cause: &sluice.Error{Reason: sluice.ReasonControlUnavailable, Message: "the control plane does not answer"},
	}
	want := "no result by its deadline; the last answer: the control plane does not answer"
	if got := describe(err); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
