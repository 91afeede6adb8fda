// A proxy between two unix sockets that makes the store as far away as a network would: every byte arrives half of the
// delay after it was sent, in each direction, and nothing else changes.
//
// The rate is not limited: any number of bytes may be under way, as in a wide cable. One thread, one epoll, one timerfd.
// The delay is the same for all, so what was read first is due first, and one queue holds everything. Linux only.
package main

import (
	"flag"
	"log"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

const (
	clockMonotonic = 1 // CLOCK_MONOTONIC
	readBytesMax   = 256 << 10
	// What is due within this time is delivered at once: one wake-up for many small replies.
	slack = 20 * time.Microsecond
)

// end is one side of a connection; what is read from it goes to its other side.
type end struct {
	fd      int
	events  uint32 // what epoll watches it for
	other   *end
	pending []byte // due, but the socket's buffer was full
	finish  bool   // shut down for writing once pending is empty
	done    int    // directions of the connection that have ended: 2 closes it (counted on both ends)
	closed  bool
}

type item struct {
	due  time.Duration
	to   *end
	data []byte // nil: the sender has closed
}

type proxy struct {
	epoll, timer, listener int
	store                  string
	half                   time.Duration
	ends                   map[int]*end
	queue                  []item // by due time; the first `sent` are gone
	sent                   int
	armed                  time.Duration // when the timer fires next; 0: it does not
	start                  time.Time
	buffer                 []byte
}

func (p *proxy) now() time.Duration { return time.Since(p.start) }

func (p *proxy) watch(fd, op int, events uint32) {
	event := syscall.EpollEvent{Events: events, Fd: int32(fd)}
	if err := syscall.EpollCtl(p.epoll, op, fd, &event); err != nil {
		log.Fatal(err)
	}
}

// want sets what an end is watched for. An end that is watched for nothing is taken out: epoll would report its hangup
// again and again.
func (p *proxy) want(e *end, events uint32) {
	op := syscall.EPOLL_CTL_MOD
	switch {
	case events == e.events:
		return
	case e.events == 0:
		op = syscall.EPOLL_CTL_ADD
	case events == 0:
		op = syscall.EPOLL_CTL_DEL
	}
	p.watch(e.fd, op, events)
	e.events = events
}

func (p *proxy) accept() {
	fd, _, err := syscall.Accept4(p.listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
	if err != nil {
		return
	}
	up, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := syscall.Connect(up, &syscall.SockaddrUnix{Name: p.store}); err != nil {
		_ = syscall.Close(up)
		_ = syscall.Close(fd)
		return
	}
	_ = syscall.SetNonblock(up, true)
	client, server := &end{fd: fd}, &end{fd: up}
	client.other, server.other = server, client
	for _, e := range []*end{client, server} {
		p.ends[e.fd] = e
		p.want(e, syscall.EPOLLIN)
	}
}

// read queues what the end has sent. Level-triggered: one read is enough.
func (p *proxy) read(e *end) {
	n, err := syscall.Read(e.fd, p.buffer)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	next := item{due: p.now() + p.half, to: e.other}
	if n > 0 {
		next.data = append([]byte(nil), p.buffer[:n]...)
	} else {
		p.want(e, e.events&^syscall.EPOLLIN)
	}
	p.queue = append(p.queue, next)
}

func (p *proxy) deliver() {
	limit := p.now() + slack
	for p.sent < len(p.queue) && p.queue[p.sent].due <= limit {
		next := &p.queue[p.sent]
		if next.data == nil {
			next.to.finish = true
		} else if len(next.to.pending) > 0 {
			next.to.pending = append(next.to.pending, next.data...)
		} else {
			next.to.pending = next.data
		}
		p.flush(next.to)
		*next = item{}
		p.sent++
	}
	if p.sent == len(p.queue) {
		p.queue, p.sent = p.queue[:0], 0
	} else if p.sent > 1<<16 {
		p.queue = append(p.queue[:0], p.queue[p.sent:]...)
		p.sent = 0
	}
	p.arm()
}

// flush writes what is due, and waits for room where the socket has none.
func (p *proxy) flush(e *end) {
	for len(e.pending) > 0 && !e.closed {
		n, err := syscall.Write(e.fd, e.pending)
		if err == syscall.EAGAIN {
			p.want(e, e.events|syscall.EPOLLOUT)
			return
		}
		if err != nil {
			e.pending = nil // the reader is gone
			break
		}
		e.pending = e.pending[n:]
	}
	if e.finish && len(e.pending) == 0 {
		e.finish = false
		_ = syscall.Shutdown(e.fd, syscall.SHUT_WR)
		e.done++
		e.other.done++
		if e.done == 2 {
			p.close(e)
			p.close(e.other)
		}
	}
}

func (p *proxy) close(e *end) {
	e.closed = true
	delete(p.ends, e.fd)
	_ = syscall.Close(e.fd)
}

// arm lets the timer fire when the first of the queue is due.
func (p *proxy) arm() {
	next := time.Duration(0)
	if p.sent < len(p.queue) {
		next = max(p.queue[p.sent].due, 1)
	}
	if next == p.armed {
		return
	}
	p.armed = next
	var after int64 // 0 disarms
	if next > 0 {
		after = max(int64(next-p.now()), 1)
	}
	value := [4]int64{0, 0, after / 1e9, after % 1e9}
	if _, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(p.timer), 0, uintptr(unsafe.Pointer(&value)), 0, 0, 0); errno != 0 {
		log.Fatal(errno)
	}
}

func (p *proxy) loop() {
	events := make([]syscall.EpollEvent, 1024)
	var ticks [8]byte
	for {
		n, err := syscall.EpollWait(p.epoll, events, -1)
		if err != nil && err != syscall.EINTR {
			log.Fatal(err)
		}
		for i := range max(n, 0) {
			switch fd := int(events[i].Fd); fd {
			case p.timer:
				_, _ = syscall.Read(fd, ticks[:])
				p.armed = 0
			case p.listener:
				p.accept()
			default:
				e := p.ends[fd]
				if e == nil {
					continue
				}
				if events[i].Events&syscall.EPOLLOUT != 0 {
					p.want(e, e.events&^syscall.EPOLLOUT)
					p.flush(e)
				}
				if !e.closed && e.events&syscall.EPOLLIN != 0 && events[i].Events&^syscall.EPOLLOUT != 0 {
					p.read(e)
				}
			}
		}
		p.deliver()
	}
}

func main() {
	listen := flag.String("listen", "", "path of the unix socket to listen on")
	store := flag.String("store", "", "path of the store's unix socket")
	delay := flag.Duration("delay", time.Millisecond, "of a round trip; half of it in each direction")
	flag.Parse()
	runtime.LockOSThread()
	// Timer slack of the thread, nanoseconds: the default lets a timer fire 50 us late (PR_SET_TIMERSLACK, prctl(2)).
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, 29, 1, 0)
	listener, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := syscall.Bind(listener, &syscall.SockaddrUnix{Name: *listen}); err != nil {
		log.Fatal(err)
	}
	if err := syscall.Listen(listener, 1024); err != nil {
		log.Fatal(err)
	}
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		log.Fatal(err)
	}
	timer, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, syscall.O_NONBLOCK, 0)
	if errno != 0 {
		log.Fatal(errno)
	}
	p := &proxy{
		epoll: epoll, timer: int(timer), listener: listener, store: *store, half: *delay / 2,
		ends: map[int]*end{}, start: time.Now(), buffer: make([]byte, readBytesMax),
	}
	p.watch(listener, syscall.EPOLL_CTL_ADD, syscall.EPOLLIN)
	p.watch(p.timer, syscall.EPOLL_CTL_ADD, syscall.EPOLLIN)
	p.loop()
}
