package node

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// folderVersion is the format of the data folder; it grows when an older binary could not use it.
const folderVersion = 1

// folder is a data folder that this process holds.
type folder struct {
	dir  string
	lock *os.File
}

// openFolder makes the folder where it is missing, takes its lock and checks its format.
func openFolder(dir string) (*folder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := makeFolder(dir); err != nil {
		return nil, fmt.Errorf("data folder %s: %w; choose another with --data", dir, err)
	}
	f := &folder{dir: dir}
	if err := f.hold(); err != nil {
		return nil, err
	}
	if err := f.checkVersion(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// hold takes the lock, which the kernel gives back however this process ends.
func (f *folder) hold() error {
	lock, err := os.OpenFile(f.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("data folder %s: %w", f.dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(lock.Name()) // for the text only
		_ = lock.Close()                      // nothing was written
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock data folder %s: %w", f.dir, err)
		}
		return fmt.Errorf("data folder %s is in use by process %s; stop that one, or choose another with --data",
			f.dir, strings.TrimSpace(string(holder)))
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := errors.Join(lock.Truncate(0), writeAt(lock, pid)); err != nil {
		_ = lock.Close() // the error above says what happened
		return fmt.Errorf("lock data folder %s: %w", f.dir, err)
	}
	f.lock = lock
	return nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

func (f *folder) checkVersion() error {
	b, err := os.ReadFile(f.path("version"))
	if errors.Is(err, fs.ErrNotExist) {
		return replaceFile(f.path("version"), []byte(strconv.Itoa(folderVersion)+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("data folder %s: %w", f.dir, err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || v != folderVersion {
		return fmt.Errorf("data folder %s has format %q and this sluice uses %d; start the release that wrote it, or choose another with --data",
			f.dir, strings.TrimSpace(string(b)), folderVersion)
	}
	return nil
}

// nodeName is the configured name, or the one made at the first start.
func (f *folder) nodeName(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	b, err := os.ReadFile(f.path("node"))
	if err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("name of the node: %w", err)
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "node"
	}
	suffix := make([]byte, 3)
	if _, err := rand.Read(suffix); err != nil {
		return "", err
	}
	name := host + "-" + hex.EncodeToString(suffix)
	return name, replaceFile(f.path("node"), []byte(name+"\n"), 0o600)
}

// ready is the content of ready.json.
type ready struct {
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	PID  int    `json:"pid"`
	Node string `json:"node"`
}

func (f *folder) writeReady(r ready) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replaceFile(f.path("ready.json"), append(b, '\n'), 0o600)
}

func (f *folder) removeReady() error {
	if err := os.Remove(f.path("ready.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f *folder) close() error { return f.lock.Close() }

// makeFolder makes a folder and the ones above it, and syncs each new entry: a power cut soon after the first start must
// not take away the folder in which messages were acknowledged.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeFolder(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// replaceFile writes a file so that readers, and a start after a power cut, see the old content or the new one.
func replaceFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}
