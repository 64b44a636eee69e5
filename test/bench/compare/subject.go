package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-mq/sluice/internal/bench"
)

// subject is a process that is measured.
type subject struct {
	name string
	dial bench.Dialer
	cpu  func() (float64, error)
	cmd  *exec.Cmd
	dir  string // deleted at the end
}

// start starts the relay or the product and waits until it serves.
func start(ctx context.Context, name string, o options, k *topics) (*subject, error) {
	dir, err := os.MkdirTemp("", "sluice-compare-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	s := &subject{name: name, dir: dir}
	var addr string
	switch name {
	case "relay":
		addr, err = s.startRelay(ctx, o)
	case "sluice":
		addr, err = s.startSluice(ctx, o, k)
	default:
		err = errors.New("only relay and sluice are known")
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s.cpu = bench.ProcessCPU(s.cmd.Process.Pid)
	s.dial = func() (*grpc.ClientConn, error) {
		return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(16<<20), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	}
	return s, nil
}

func (s *subject) startRelay(ctx context.Context, o options) (addr string, err error) {
	bin := filepath.Join(s.dir, "relay")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/sluice-mq/sluice/test/bench/relay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build it: %w: %s", err, out)
	}
	s.cmd = exec.Command(bin, "-bootstrap", o.bootstrap)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := s.cmd.Start(); err != nil {
		return "", err
	}
	addr, err = bufio.NewReader(out).ReadString('\n')
	return strings.TrimSpace(addr), err
}

// startSluice starts a node on a data folder of its own, with the cluster
// registered and the topics adopted.
func (s *subject) startSluice(ctx context.Context, o options, k *topics) (addr string, err error) {
	logs, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return "", err
	}
	defer logs.Close()
	data := filepath.Join(s.dir, "data")
	s.cmd = exec.Command(o.sluice, "server", "--dev", "--data", data, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
	s.cmd.Stdout, s.cmd.Stderr = logs, logs
	if err := s.cmd.Start(); err != nil {
		return "", err
	}
	if addr, err = ready(ctx, filepath.Join(data, "ready.json")); err != nil {
		text, _ := os.ReadFile(logs.Name()) // only to show it
		return "", fmt.Errorf("%w; its log:\n%s", err, text)
	}
	for _, args := range [][]string{
		{"cluster", "add", "bench", "--kind", "kafka", "--bootstrap", o.bootstrap},
		{"topic", "adopt", k.publish, k.consume, "--cluster", "bench"},
	} {
		c := exec.CommandContext(ctx, o.sluice, append(args, "--server", addr)...)
		if out, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return addr, nil
}

// ready waits for the file that a node writes once it serves.
func ready(ctx context.Context, file string) (addr string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var r struct {
			GRPC string `json:"grpc"`
		}
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &r) == nil && r.GRPC != "" {
			return r.GRPC, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s: %w", file, ctx.Err())
		}
	}
}

// stop ends the process and waits for it; after ten seconds it is killed.
func (s *subject) stop() {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself: Wait tells
		kill := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
		if err := s.cmd.Wait(); err != nil {
			log.Printf("%s ended with %v", s.name, err)
		}
		kill.Stop()
	}
	if err := os.RemoveAll(s.dir); err != nil {
		log.Printf("delete %s: %v", s.dir, err)
	}
}
