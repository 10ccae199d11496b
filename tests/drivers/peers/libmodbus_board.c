/* A plain relay board made of libmodbus: 8 coils, 8 discrete inputs and 8 input registers, on RTU or
 * on TCP.
 *
 * usage: libmodbus_board rtu PORT BAUD UNIT | libmodbus_board tcp PORT
 *
 * Whatever it is told it does with libmodbus's own server, of which this project knows nothing.
 * It prints "ready", and after every request the coils as a line of 0 and 1; discrete input n
 * follows coil n, so that a host can see its own writes by another function, and so does input
 * register n, as millivolts of a loop of 1k and 1k at 5 V through 2.2k. */
#include <modbus/modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    modbus_mapping_t *map = modbus_mapping_new(8, 8, 0, 8);
    modbus_t *bus;
    int rtu = argc == 5 && strcmp(argv[1], "rtu") == 0;

    if (rtu) {
        bus = modbus_new_rtu(argv[2], atoi(argv[3]), 'N', 8, 1);
        modbus_set_slave(bus, atoi(argv[4]));
        if (modbus_connect(bus) < 0)
            return 1;
    } else {
        int listener;
        bus = modbus_new_tcp("127.0.0.1", atoi(argv[2]));
        listener = modbus_tcp_listen(bus, 1);
        if (listener < 0)
            return 1;
        puts("ready");
        fflush(stdout);
        if (modbus_tcp_accept(bus, &listener) < 0)
            return 1;
    }
    if (rtu) {
        puts("ready");
        fflush(stdout);
    }
    for (;;) {
        int i, size = modbus_receive(bus, query);
        if (size < 0) {
            if (!rtu)
                return 0; /* the host hung up */
            continue;     /* a broken frame on a line is nobody's */
        }
        if (size == 0)
            continue; /* another unit's */
        modbus_reply(bus, query, size, map);
        for (i = 0; i < 8; i++) {
            map->tab_input_bits[i] = map->tab_bits[i];
            map->tab_input_registers[i] = map->tab_bits[i] ? 1563 : 2381;
            putchar('0' + (map->tab_bits[i] != 0));
        }
        putchar('\n');
        fflush(stdout);
    }
}
