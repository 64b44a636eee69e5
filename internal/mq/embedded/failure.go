package embedded

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// gate stands between one Pebble instance and the disk. The first write or sync that fails closes it: from then on
// that instance changes nothing on disk, whatever its goroutines still try. Pebble has no such state of its own (it
// ends the process), and without it nobody could open the folder again beside an instance that may not be closed.
type gate struct {
	vfs.FS
	closed atomic.Pointer[error]
	onFail func(error) // called once, must not block
	// noSync leaves out the syncs of Pebble's log: what is written has reached the operating system and survives the
	// process. (Pebble's own unsynced writes would stay in the process for a while.)
	noSync bool
}

var errGateClosed = errors.New("the store was stopped by an earlier write error")

// check passes a write's outcome on, and closes the gate at an error.
func (g *gate) check(what string, err error) error {
	if err == nil || errors.Is(err, errGateClosed) || errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) {
		return err
	}
	g.fail(fmt.Errorf("%s: %w", what, err))
	return err
}

func (g *gate) fail(err error) {
	if g.closed.CompareAndSwap(nil, &err) {
		g.onFail(err)
	}
}

func (g *gate) open() error {
	if g.closed.Load() != nil {
		return errGateClosed
	}
	return nil
}

// isSpace tells whether a write failed for want of room: a full disk, a quota, a limit on file sizes.
func isSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

func (g *gate) file(what string, f vfs.File, err error) (vfs.File, error) {
	if err = g.check(what, err); err != nil {
		return nil, err
	}
	return &gateFile{File: f, g: g, name: what}, nil
}

func (g *gate) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	f, err := g.FS.Create(name, c)
	return g.file("create "+name, f, err)
}

func (g *gate) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	f, err := g.FS.OpenReadWrite(name, c, opts...)
	return g.file("open "+name, f, err)
}

func (g *gate) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.open(); err != nil {
		return nil, err
	}
	f, err := g.FS.ReuseForWrite(from, to, c)
	return g.file("reuse "+from, f, err)
}

func (g *gate) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &gateFile{File: f, g: g, name: name}, nil
}

func (g *gate) Link(from, to string) error {
	if err := g.open(); err != nil {
		return err
	}
	return g.check("link "+to, g.FS.Link(from, to))
}

func (g *gate) Rename(from, to string) error {
	if err := g.open(); err != nil {
		return err
	}
	return g.check("rename "+from, g.FS.Rename(from, to))
}

func (g *gate) MkdirAll(dir string, perm os.FileMode) error {
	if err := g.open(); err != nil {
		return err
	}
	return g.check("make folder "+dir, g.FS.MkdirAll(dir, perm))
}

// Remove's failure endangers nothing that was promised, so it does not close the gate.
func (g *gate) Remove(name string) error {
	if err := g.open(); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

func (g *gate) RemoveAll(name string) error {
	if err := g.open(); err != nil {
		return err
	}
	return g.FS.RemoveAll(name)
}

// Lock does nothing: the folder above is locked, and an abandoned instance never gives its own lock back.
func (g *gate) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (g *gate) Unwrap() vfs.FS { return g.FS }

type gateFile struct {
	vfs.File
	g    *gate
	name string
}

func (f *gateFile) Write(b []byte) (int, error) {
	if err := f.g.open(); err != nil {
		return 0, err
	}
	n, err := f.File.Write(b)
	return n, f.g.check("write "+f.name, err)
}

func (f *gateFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.g.open(); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(b, at)
	return n, f.g.check("write "+f.name, err)
}

// lazy tells whether the file's syncs are left out.
func (f *gateFile) lazy() bool { return f.g.noSync && strings.HasSuffix(f.name, ".log") }

func (f *gateFile) Sync() error {
	if err := f.g.open(); err != nil || f.lazy() {
		return err
	}
	return f.g.check("sync "+f.name, f.File.Sync())
}

func (f *gateFile) SyncData() error {
	if err := f.g.open(); err != nil || f.lazy() {
		return err
	}
	return f.g.check("sync "+f.name, f.File.SyncData())
}

func (f *gateFile) SyncTo(n int64) (bool, error) {
	if err := f.g.open(); err != nil || f.lazy() {
		return false, err
	}
	full, err := f.File.SyncTo(n)
	return full, f.g.check("sync "+f.name, err)
}

// pebbleLog passes Pebble's lines on and turns its "end the process now" into the end of the instance.
type pebbleLog struct {
	log *slog.Logger
	g   *gate
}

// commitFailure is how a failed commit leaves Pebble, which expects not to live on; the committer recovers it.
type commitFailure struct{ err error }

func (l pebbleLog) Infof(format string, args ...any) {
	l.log.Debug("pebble", "line", fmt.Sprintf(format, args...))
}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Warn("pebble", "line", fmt.Sprintf(format, args...))
}

// Fatalf must not return. A failed commit is reported on the goroutine that commits, which recovers the panic; all
// other places are goroutines of Pebble's own, which end here.
func (l pebbleLog) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	l.g.fail(err)
	if strings.HasPrefix(format, "pebble: fatal commit error") {
		panic(commitFailure{err})
	}
	runtime.Goexit()
}
