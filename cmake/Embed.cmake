# cs_embed(TARGET FILE SYMBOL): FILE's bytes as `const uint8_t SYMBOL[]` and `const size_t SYMBOL_len` in TARGET.
function(cs_embed target file symbol)
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.c)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(READ ${source} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "((0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,)(0x..,))" "\\1\n" bytes "${bytes}")
  file(CONFIGURE OUTPUT ${generated} @ONLY CONTENT "#include <stddef.h>
#include <stdint.h>

extern const uint8_t @symbol@[];
extern const size_t @symbol@_len;
const uint8_t @symbol@[] = {
@bytes@
};
const size_t @symbol@_len = sizeof @symbol@;
")
  target_sources(${target} PRIVATE ${generated})
endfunction()
