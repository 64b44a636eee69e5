package embedded

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/mq"
)

// badDisk is a file system whose free space and whose writes' fate the test sets.
type badDisk struct {
	vfs.FS
	free atomic.Int64
	err  atomic.Pointer[error] // of writes and syncs; nil: none
}

func newBadDisk() *badDisk {
	d := &badDisk{FS: vfs.NewMem()}
	d.free.Store(1 << 40)
	return d
}

func (d *badDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: uint64(d.free.Load()), TotalBytes: 1 << 40}, nil
}

func (d *badDisk) fail() error {
	if e := d.err.Load(); e != nil {
		return *e
	}
	return nil
}

func (d *badDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return badFile{f, d}, err
}

func (d *badDisk) ReuseForWrite(a, b string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(a, b, c)
	return badFile{f, d}, err
}

type badFile struct {
	vfs.File
	d *badDisk
}

func (f badFile) Write(b []byte) (int, error) {
	if err := f.d.fail(); err != nil {
		return 0, err
	}
	return f.File.Write(b)
}

func (f badFile) Sync() error {
	if err := f.d.fail(); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f badFile) SyncData() error {
	if err := f.d.fail(); err != nil {
		return err
	}
	return f.File.SyncData()
}

func TestLittleSpaceRefusesAndRecovers(t *testing.T) {
	t.Parallel()
	d := newBadDisk()
	s := openMem(t, d, Config{MinFreeBytes: 1 << 20}, nil)
	defer closeStore(t, s)
	createTopic(t, s, "t", 1, nil)
	p := mq.PartitionID{Topic: "t"}
	put(t, s, p, "before")
	d.free.Store(1 << 19)
	r := produce(s, p, mq.Record{Body: []byte("refused")})[0]
	if !errors.Is(r.Err, mq.DiskFull) || mq.MaybeSent(r.Err) {
		t.Fatalf("below the limit: %v", r.Err)
	}
	if h := s.Probe(t.Context()); h[0].Err == nil {
		t.Error("the probe sees nothing of it")
	}
	if err := s.Admin().SetGroupOffsets(t.Context(), "g", map[mq.PartitionID]mq.Commit{p: {Offset: 1}}); err != nil {
		t.Errorf("positions have to go on: %v", err)
	}
	d.free.Store(1 << 30)
	put(t, s, p, "after")
	if got := strings.Join(bodies(t, s, p, 0), " "); got != "before after" {
		t.Errorf("the log is %q", got)
	}
}

// stopWith makes the disk fail and checks that the store stops as promised.
func stopWith(t *testing.T, cause error) (*badDisk, *Store, mq.PartitionID) {
	t.Helper()
	d := newBadDisk()
	s := openMem(t, d, Config{}, nil)
	createTopic(t, s, "t", 1, nil)
	p := mq.PartitionID{Topic: "t"}
	put(t, s, p, "before")
	d.err.Store(&cause)
	if r := produce(s, p, mq.Record{Body: []byte("in doubt")})[0]; !mq.MaybeSent(r.Err) || !errors.Is(r.Err, cause) {
		t.Fatalf("the failing write: %v", r.Err)
	}
	if r := produce(s, p, mq.Record{Body: []byte("later")})[0]; r.Err == nil || mq.MaybeSent(r.Err) || !errors.Is(r.Err, cause) {
		t.Fatalf("the next one: %v", r.Err)
	}
	if got := strings.Join(bodies(t, s, p, 0), " "); got != "before" {
		t.Fatalf("readers see %q", got)
	}
	return d, s, p
}

func TestWriteErrorStopsForGood(t *testing.T) {
	t.Parallel()
	d, s, p := stopWith(t, syscall.EIO)
	d.err.Store(nil) // a disk that works again is not trusted
	if r := produce(s, p, mq.Record{Body: []byte("x")})[0]; !errors.Is(r.Err, mq.Fatal) {
		t.Fatalf("after an input/output error: %v", r.Err)
	}
	closeStore(t, s)
	s = openMem(t, d, Config{}, nil) // a restart is
	defer closeStore(t, s)
	put(t, s, p, "restarted")
	if got := bodies(t, s, p, 0); got[0] != "before" || got[len(got)-1] != "restarted" {
		t.Errorf("the log is %q", got)
	}
}

func TestFullDiskRecoversByItself(t *testing.T) {
	t.Parallel()
	d, s, p := stopWith(t, syscall.ENOSPC)
	defer closeStore(t, s)
	waiting := make(chan mq.Batch, 1)
	go func() {
		b, _ := s.Reader().Fetch(context.Background(), p, 1, mq.Limits{MaxWait: time.Minute})
		waiting <- b
	}()
	d.err.Store(nil)
	deadline := time.Now().Add(30 * time.Second)
	for {
		if r := produce(s, p, mq.Record{Body: []byte("again")})[0]; r.Err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("it does not go on: %v", r.Err)
		}
		<-time.After(20 * time.Millisecond)
	}
	got := bodies(t, s, p, 0)
	if got[0] != "before" || got[len(got)-1] != "again" {
		t.Errorf("the log is %q", got)
	}
	if b := <-waiting; len(b.Records) == 0 {
		t.Error("a fetch from before was not woken")
	}
}

// TestFileSizeLimit runs the store in a process of its own under ulimit -f, the full disk that needs no privileges.
func TestFileSizeLimit(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("SLUICE_TEST_FILE_LIMIT_DIR"); dir != "" {
		fillUp(t, dir)
		if t.Failed() {
			os.Exit(1)
		}
		os.Exit(0) // the store is left as a kill would leave it
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", "ulimit -f 4096; exec \"$0\" -test.run='^TestFileSizeLimit$' -test.v", os.Args[0])
	cmd.Env = append(os.Environ(), "SLUICE_TEST_FILE_LIMIT_DIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "acked"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	acked, _ := strconv.Atoi(string(b))
	s := openStore(t, Config{Dir: filepath.Join(dir, "store"), MinFreeBytes: 1})
	if n := len(bodies(t, s, mq.PartitionID{Topic: "t"}, 0)); acked == 0 || n < acked {
		t.Errorf("%d records are there, %d were acknowledged", n, acked)
	}
}

func fillUp(t *testing.T, dir string) {
	s, err := Open(context.Background(), Config{Dir: filepath.Join(dir, "store"), MinFreeBytes: 1}, quiet(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	createTopic(t, s, "t", 1, nil)
	acked := 0
	for range 1000 {
		r := produce(s, mq.PartitionID{Topic: "t"}, mq.Record{Body: make([]byte, 10_000)})[0]
		if r.Err == nil {
			acked++
			continue
		}
		if !errors.Is(r.Err, mq.DiskFull) {
			t.Errorf("at the limit: %v", r.Err)
		}
		break
	}
	if err := os.WriteFile(filepath.Join(dir, "acked"), []byte(strconv.Itoa(acked)), 0o600); err != nil {
		t.Fatal(err)
	}
	if acked == 1000 {
		t.Error("the limit was never reached")
	}
}

func TestFolderIsRefused(t *testing.T) {
	t.Parallel()
	refused := func(dir string, words ...string) {
		t.Helper()
		s, err := Open(context.Background(), Config{Dir: dir}, quiet(), prometheus.NewRegistry())
		if err == nil {
			closeStore(t, s)
			t.Errorf("%s was opened", dir)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v; want %q in it", err, w)
			}
		}
	}
	held := t.TempDir()
	openStore(t, Config{Dir: held})
	refused(held, "in use by process "+strconv.Itoa(os.Getpid()))

	newer := t.TempDir()
	if err := os.WriteFile(filepath.Join(newer, formatFile), []byte("sluice-embedded 99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(newer, "format 99", "newer release")

	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(foreign, "photo.jpg", "empty folder")
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	if err := (Config{Dir: "x"}).Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Durability: "maybe", MaxRecordBytes: 1, RetentionBytes: 1}.Validate()
	for _, w := range []string{"no folder", `durability "maybe"`, "largest record", "retention of 1 bytes"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%v; want %q in it", err, w)
		}
	}
}

// slowDisk syncs only when the test lets it.
type slowDisk struct {
	vfs.FS
	hold atomic.Pointer[chan struct{}]
}

func (d *slowDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return slowFile{f, d}, err
}

type slowFile struct {
	vfs.File
	d *slowDisk
}

func (f slowFile) wait() {
	if c := f.d.hold.Load(); c != nil {
		<-*c
	}
}

func (f slowFile) SyncData() error { f.wait(); return f.File.SyncData() }
func (f slowFile) Sync() error     { f.wait(); return f.File.Sync() }

func TestQueueIsBoundedAndContextsEnd(t *testing.T) {
	t.Parallel()
	d := &slowDisk{FS: vfs.NewMem()}
	s := openMem(t, d, Config{MaxRecordBytes: 1 << 20, QueueBytes: 2 << 20}, nil)
	defer closeStore(t, s)
	createTopic(t, s, "t", 1, nil)
	p := mq.PartitionID{Topic: "t"}
	hold := make(chan struct{})
	d.hold.Store(&hold)
	send := func(ctx context.Context, body string) chan mq.Result {
		done := make(chan mq.Result, 1)
		s.Producer().Produce(ctx, p, []mq.Record{{Body: []byte(body)}}, func(rs []mq.Result) { done <- rs[0] })
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	flying := send(ctx, "flying")
	for deadline := time.Now().Add(10 * time.Second); ; { // until the committer has it
		s.queue.mu.Lock()
		empty := s.queue.bytes == 0
		s.queue.mu.Unlock()
		if empty {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the committer does not take it")
		}
		<-time.After(time.Millisecond)
	}
	waiting := send(ctx, "waiting")
	cancel()
	if r := <-flying; !errors.Is(r.Err, mq.Timeout) || !mq.MaybeSent(r.Err) {
		t.Errorf("in flight: %v", r.Err)
	}
	if r := <-waiting; !errors.Is(r.Err, mq.Timeout) || mq.MaybeSent(r.Err) {
		t.Errorf("in the queue: %v", r.Err)
	}
	large := strings.Repeat("x", 1<<20-100)
	one, busy := send(t.Context(), large), send(t.Context(), large+"x")
	third := send(t.Context(), large)
	if r := <-third; !errors.Is(r.Err, mq.Busy) || mq.MaybeSent(r.Err) {
		t.Errorf("over the limit of the queue: %v", r.Err)
	}
	d.hold.Store(nil)
	close(hold)
	if r := <-one; r.Err != nil {
		t.Error(r.Err)
	}
	<-busy
	if got := bodies(t, s, p, 0); got[0] != "flying" || got[1] == "waiting" {
		t.Errorf("the log begins with %.20q, %.20q", got[0], got[1])
	}
}
